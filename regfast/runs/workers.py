"""Independent pieces of work on several processes: for small networks a process a core beats a thread a core."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from regfast.runs.errors import InputError, RunStopped
from regfast.runs.files import leave_now
from regfast.runs.progress import Progress, Silent

Piece = TypeVar("Piece")
Work = Callable[[Any, Progress], None]


_PATIENCE = 10.0  # seconds that a worker has to end when it is told to
_OFTEN = 0.1  # seconds between two messages of progress


class WorkerTraceback(Exception):
    """The cause of an error that a worker process raised: its traceback, as text."""


class _Messages(Silent):
    """A worker's progress, sent to the process that shows it."""

    def __init__(self, messages: Any):
        self._messages, self._steps, self._sent = messages, 0.0, 0.0

    def advance(self, steps: float = 1) -> None:
        """`steps` more are done."""
        self._steps += steps
        if time.monotonic() - self._sent > _OFTEN:
            self.flush()

    def say(self, doing: str) -> None:
        """What is being done now."""
        self._messages.put(("say", doing))

    def flush(self) -> None:
        """Send what was counted since the last message."""
        self._messages.put(("advance", self._steps))
        self._steps, self._sent = 0.0, time.monotonic()


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(work: Callable[[Piece, Progress], None], pieces: Sequence[Piece], workers: int, progress: Progress) -> None:
    """`work(piece, progress)` for every piece; with more than one worker each has a process and a share of the cores.

    `work` and the pieces must be picklable. An error of one piece stops all and is raised here, caused by a
    `WorkerTraceback`; Ctrl-C stops all too. No process stays behind, not even when this one is killed.

    Raises:
        RunStopped: a worker died (killed, out of memory).
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, got {workers}")
    workers = min(workers, len(pieces))
    if workers <= 1:
        for piece in pieces:
            work(piece, progress)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has run OpenMP threads can hang
    tasks, messages = context.SimpleQueue(), context.Queue()
    for task in [*pieces, *[None] * workers]:
        tasks.put(task)
    threads = max(1, cores() // workers)
    processes = [
        context.Process(target=_serve, args=(work, tasks, messages, threads), daemon=True) for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        left = len(pieces)
        while left:
            try:
                kind, content = messages.get(timeout=1)
            except queue.Empty:
                ends = [process.exitcode for process in processes]
                if any(ends) or None not in ends:
                    raise RunStopped(f"worker processes ended early, with exit status {ends}") from None
                continue
            if kind == "failed":
                error, text = content
                raise error from WorkerTraceback(f"\n{text}")
            if kind == "done":
                left -= 1
            else:
                getattr(progress, kind)(content)
        for process in processes:  # nothing is left to do: they end by themselves
            process.join(_PATIENCE)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_PATIENCE)
            process.kill()
            process.join()
            process.close()
        messages.close()
        tasks.close()


def _serve(work: Work, tasks: Any, messages: Any, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    signal.signal(signal.SIGTERM, lambda *_: (messages.cancel_join_thread(), sys.exit(1)))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    progress = _Messages(messages)
    while (piece := tasks.get()) is not None:
        try:
            work(piece, progress)
        except Exception as error:
            messages.put(("failed", (_picklable(error), traceback.format_exc())))
            return
        progress.flush()
        messages.put(("done", None))


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception's own class makes of it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """A first process that is killed outright cannot end its workers: they watch it themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        leave_now("a worker ends: the process that started it is gone")
