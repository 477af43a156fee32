"""The processes that train one model together, each on its part of every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Found = TypeVar("Found")


@dataclass(frozen=True)
class Ranks:
    """This process's `rank` among `size`, and the device that it computes on."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def of(cls, device: torch.device, together: bool) -> Ranks:
        """All of the process group where they work `together`, else this process alone.

        Raises ValueError where there is no process group.
        """
        if not together:
            return cls(0, 1, device)
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError("together needs a process group: start with torchrun, or initialize torch.distributed")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def part(self, batch: Tensor) -> Tensor:
        """This rank's rows of (B, …)."""
        return batch if self.size == 1 else batch.tensor_split(self.size)[self.rank]

    def first(self, work: Callable[[], Found]) -> Found:
        """What `work` gives, or raises, on the first rank, on all of them."""
        if self.size == 1:
            return work()
        told: list[Found | Exception | None] = [None]
        if self.rank == 0:
            try:
                told = [work()]
            except Exception as error:  # whatever it is, the others must not wait for ever
                told = [error]
        dist.broadcast_object_list(told, src=0, device=self.device)
        if isinstance(told[0], Exception):
            raise told[0]
        return told[0]  # type: ignore[return-value]

    def summed(self, value: Tensor) -> Tensor:
        """Of all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def same_buffers(self, *models: nn.Module) -> None:
        """Batch norm's statistics as on the first rank."""
        if self.size > 1:
            for buffer in {id(buffer): buffer for model in models for buffer in model.buffers()}.values():
                dist.broadcast(buffer, src=0)

    def same_generator(self, generator: torch.Generator) -> None:
        """`generator` as on the first rank."""
        if self.size > 1:
            generator.set_state(self.first(generator.get_state))
