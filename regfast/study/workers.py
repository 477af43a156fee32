"""Independent pieces of work on several processes: for small networks a process a core beats a thread a core."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from regfast.data import data_set
from regfast.study.progress import Progress, Silent

Piece = TypeVar("Piece")
Work = Callable[[Any, Progress], None]


class WorkerTraceback(Exception):
    """Where in a worker an error came from; `origin` is the module that raised it."""

    def __init__(self, origin: str, text: str):
        super().__init__(f"\n{text}")
        self.origin = origin


class _Messages(Silent):
    """A worker's progress, sent to the process that shows it."""

    def __init__(self, messages: Any):
        self._messages = messages

    def advance(self, steps: int = 1) -> None:
        """`steps` more are done."""
        self._messages.put(("advance", steps))

    def say(self, doing: str) -> None:
        """What is being done now."""
        self._messages.put(("say", doing))


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(dataset: str) -> int:
    """A process a core (four at most) for 8×8 images, which leave a second thread idle most of the time; else one."""
    return min(cores(), 4) if data_set(dataset).embedded else 1


def run_all(work: Callable[[Piece, Progress], None], pieces: Sequence[Piece], workers: int, progress: Progress) -> None:
    """`work(piece, progress)` for every piece; with more than one worker each has a process and a share of the cores.

    `work` and the pieces must be picklable. An error of one piece stops all and is raised here, caused by a
    `WorkerTraceback`; Ctrl-C stops all too. A worker that dies (killed, out of memory) is a RuntimeError.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
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
                    raise RuntimeError(f"worker processes ended early, with exit status {ends}") from None
                continue
            if kind == "failed":
                error, origin, text = content
                raise error from WorkerTraceback(origin, text)
            if kind == "done":
                left -= 1
            else:
                getattr(progress, kind)(content)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _serve(work: Work, tasks: Any, messages: Any, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    while (piece := tasks.get()) is not None:
        try:
            work(piece, _Messages(messages))
        except Exception as error:
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            messages.put(("failed", (error, frames[-1].f_globals["__name__"], traceback.format_exc())))
            return
        messages.put(("done", None))


def _end_with_parent() -> None:
    """A first process that is killed outright cannot end its workers: they watch it themselves."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
