"""The workers of one run: a single process, or all ranks under torchrun."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from regfast.runs.errors import RunStopped
from regfast.runs.files import leave_now
from regfast.runs.progress import Progress, Silent
from regfast.runs.workers import Piece, run_all

__all__ = ["WorkerGroup", "agree", "join", "share_all"]

_PULSE = 1.0  # seconds between two signs of life of a worker
_PATIENCE = 60.0  # seconds without one after which it counts as lost
_CONNECT = timedelta(seconds=10)  # torchrun's store is there before its workers are
_TIMEOUT = timedelta(days=30)  # of one answer: a worker waits for the slowest chunk of the others while these live


@dataclass
class WorkerGroup:
    """This worker's place among all: `rank` of `size`, the device it computes on, and the store that they share.

    `connect` makes another connection to the store.
    """

    rank: int
    size: int
    store: dist.Store
    device: torch.device
    connect: Callable[[], dist.Store]
    agent: int | None = None  # torchrun's process, which started this one
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def leads(self) -> bool:
        """True on the one worker that checks, prints and summarizes."""
        return self.rank == 0

    def count(self, key: str, amount: int = 0) -> int:
        """Add `amount` to a counter that all workers share, and return its value."""
        return self.store.add(key, amount)

    def share(self, places: Sequence[int], what: str) -> Iterator[int]:
        """Those of `places` that this worker draws, each drawn by one of the workers; ends when all are worked on.

        `what` names this work among all that the workers share. What a worker draws next says that it has done the
        former one.
        """
        while (drawn := self.count(f"next {what}", 1) - 1) < len(places):
            yield places[drawn]
            self.count(f"done {what}", 1)
        self.wait(lambda: self.count(f"done {what}") >= len(places))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Nobody waits for the dead, or works for them, while the context lasts.

        Every worker gives a sign of life a second. One that does not lead ends, whatever it is doing, when the leading
        one is gone, for another job may be using the folder by then; so does every worker that torchrun started when
        torchrun is gone. What it had in work is lost, nothing else.
        """
        if self.size > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        except dist.DistNetworkError as error:
            raise RunStopped(f"worker {self.rank} ends: the leading worker is gone") from error
        finally:
            self._over.set()

    def _watch(self) -> None:
        store = self.connect()  # of its own: a call that waits holds the other
        while not self._over.wait(_PULSE):
            if self.agent not in (None, os.getppid()):
                leave_now(f"worker {self.rank} ends: torchrun is gone")
            try:
                store.add(f"pulse-{self.rank}", 1)
            except RuntimeError:
                if not self._over.is_set():
                    leave_now(f"worker {self.rank} ends: the leading worker is gone")

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait until `done()`. Raises RunStopped when one of the others has shown no life for a minute."""
        pulses = [(-1, 0.0)] * self.size
        while not done():
            for rank in range(self.size):
                pulse, now = self.count(f"pulse-{rank}"), time.monotonic()
                if pulse != pulses[rank][0]:
                    pulses[rank] = (pulse, now)
                elif now - pulses[rank][1] > _PATIENCE and not self.count(f"gone-{rank}"):
                    raise RunStopped(f"worker {rank} has shown no sign of life for {_PATIENCE:.0f} seconds")
            time.sleep(0.2)

    def leave(self) -> None:
        """Say that this worker is done; the one that hosts the store waits for the others before it goes."""
        self._over.set()
        self.count(f"gone-{self.rank}", 1)
        if self.leads:
            self.wait(lambda: all(self.count(f"gone-{rank}") for rank in range(self.size)))


class _Shared(Silent):
    """The steps of all workers, told by the leading one."""

    def __init__(self, group: WorkerGroup, told: Progress):
        self._group, self._told, self._seen = group, told, 0

    def advance(self, steps: float = 1) -> None:
        """`steps` more are done by this worker."""
        total = self._group.count("millionths", round(steps * 1e6))
        self._told.advance((total - self._seen) / 1e6)
        self._seen = total

    def say(self, doing: str) -> None:
        """What this worker is doing now."""
        self._told.say(doing)


def share_all(
    group: WorkerGroup,
    work: Callable[[Piece, Progress], None],
    pieces: Sequence[Piece],
    what: str,
    workers: int,
    told: Progress,
) -> None:
    """`work(piece, progress)` for all the `pieces` (`what` they are), on all ranks, or without any on `workers` processes."""
    if group.size == 1:
        run_all(work, pieces, workers, told)
        return
    shared = _Shared(group, told)
    for place in group.share(range(len(pieces)), what):
        work(pieces[place], shared)


def join(device: torch.device | str | None = None) -> WorkerGroup:
    """Join the workers that torchrun started, or make a group of one.

    Under torchrun (WORLD_SIZE in the environment) the process group is initialized unless the caller has done so:
    nccl on GPUs, gloo on CPUs. It serves once, to tell every rank where the store of this run listens; no tensor of
    the run travels through it.

    Args:
        device: where this worker computes; default: the GPU with the local rank's number, else the CPU.

    Raises:
        ValueError: if `device` names a GPU that is not there.
        RunStopped: if torchrun is gone.
    """
    agent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        device = f"cuda:{local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda":
        if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device {device} is not available: this machine has {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(device)
    if not launched and not (dist.is_available() and dist.is_initialized()):
        store: dist.Store = dist.HashStore()
        return WorkerGroup(0, 1, store, device, lambda: store)
    if not dist.is_initialized():
        shared, rank, size = _rendezvous()
        # torchrun keeps its store over an elastic restart: without a name for each attempt, workers find the addresses
        # of the dead ones there
        attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=attempt, rank=rank, world_size=size)
    rank, size = dist.get_rank(), dist.get_world_size()
    host = os.environ.get("MASTER_ADDR", socket.gethostname())
    hosted = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT) if rank == 0 else None
    address: list[int | None] = [hosted.port if hosted else None]
    dist.broadcast_object_list(address, src=0, device=device)
    assert address[0] is not None
    port = address[0]

    def connect() -> dist.Store:
        return dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_TIMEOUT)

    return WorkerGroup(rank, size, hosted or connect(), device, connect, agent)


def _rendezvous() -> tuple[dist.Store, int, int]:
    """The store through which the workers find each other, this worker's rank, and how many there are."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return next(dist.rendezvous("env://"))
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=_CONNECT))
    except dist.DistError as error:
        raise RunStopped("torchrun, which started this worker, is gone") from error
    store.set_timeout(dist.default_pg_timeout)
    return store, rank, size


def agree(workers: WorkerGroup, decide: Callable[[], Any]) -> Any:
    """The leading worker decides (a JSON value), all others take over what it says; its errors end them all.

    Raises RunStopped on the others when it could not.
    """
    key = f"agreed-{workers.count(f'turn-{workers.rank}', 1)}"
    if not workers.leads:
        answer = json.loads(workers.store.get(key))
        workers.count(f"{key}-read", 1)
        if "error" in answer:
            raise RunStopped(f"the leading worker stopped: {answer['error']}")
        return answer["value"]
    try:
        value = decide()
    except Exception as error:
        workers.store.set(key, json.dumps({"error": str(error)}))
        patience = time.monotonic() + 10  # the store goes with this process: let the others read first
        while workers.count(f"{key}-read") < workers.size - 1 and time.monotonic() < patience:
            time.sleep(0.05)
        raise
    workers.store.set(key, json.dumps({"value": value}))
    return value
