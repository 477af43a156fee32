"""The workers of one evaluation: a single process, or all ranks under torchrun."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

__all__ = ["WorkerGroup", "join"]

_TIMEOUT = timedelta(days=30)  # a worker may wait for the slowest chunk of the others, however long that takes


@dataclass
class WorkerGroup:
    """This worker's place among all: `rank` of `size`, the store they share, and the device it computes on."""

    rank: int
    size: int
    store: dist.Store
    device: torch.device

    @property
    def leads(self) -> bool:
        """True on the one worker that checks, prints and summarises."""
        return self.rank == 0

    def count(self, key: str, amount: int = 0) -> int:
        """Add `amount` to a counter that all workers share, and return its value."""
        return self.store.add(key, amount)

    def leave(self) -> None:
        """Say that this worker is done; the one that hosts the store waits for the others before it goes."""
        if self.size == 1:
            return
        if self.leads:
            self.store.wait([f"gone-{rank}" for rank in range(1, self.size)], _TIMEOUT)
        else:
            self.store.set(f"gone-{self.rank}", "1")


def join(device: torch.device | str | None = None) -> WorkerGroup:
    """Join the workers that torchrun started, or make a group of one.

    Under torchrun (WORLD_SIZE in the environment) the process group is initialised unless the caller has done so:
    nccl on GPUs, gloo on CPUs. It serves once, to tell every rank where the store of this run listens; no tensor of
    the evaluation travels through it.

    Args:
        device: where this worker computes; default: the GPU with the local rank's number, else the CPU.

    Raises:
        ValueError: if `device` names a GPU that is not there.
    """
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
        return WorkerGroup(0, 1, dist.HashStore(), device)
    if not dist.is_initialized():
        store, rank, size = next(dist.rendezvous("env://"))
        # torchrun keeps its store over an elastic restart: without a name for each attempt, workers find the addresses
        # of the dead ones there
        attempt = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=attempt, rank=rank, world_size=size)
    rank, size = dist.get_rank(), dist.get_world_size()
    host = os.environ.get("MASTER_ADDR", socket.gethostname())
    hosted = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT) if rank == 0 else None
    address: list[int | None] = [hosted.port if hosted else None]
    dist.broadcast_object_list(address, src=0, device=device)
    assert address[0] is not None
    store = hosted or dist.TCPStore(host, address[0], is_master=False, wait_for_workers=False, timeout=_TIMEOUT)
    return WorkerGroup(rank, size, store, device)
