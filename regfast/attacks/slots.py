"""The host's side of the engine: what is known of each sample, which lane is busy with it, and flags on their way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Book:
    """What is known of all N samples; tensors on the images' device, written as lanes are decided."""

    images: Tensor  # (N, C, H, W) clean, replaced by what the attack hands back
    broken: Tensor  # (N,) bool
    prediction: Tensor  # (N,) int64
    gradients: Tensor  # (N,) int64
    queries: Tensor  # (N,) int64
    distance: Tensor  # (N,) float32
    loss: Tensor  # (N,) float32


@dataclass(eq=False)
class Slot:
    """The host's side of a busy lane."""

    item: int  # row of the sample in the book
    lane: int
    run: int = 0
    answers: int = 0  # in this run
    gradients: int = 0  # for this sample, in this attack
    queries: int = 0
    gone: bool = False


@dataclass
class Flags:
    """Which lanes held a point that counts, on its way to the host."""

    slots: list[tuple[Slot, int, int]]  # with the run and the answers that the flags are about
    hit: Tensor  # (S,) bool in host memory
    arrived: torch.cuda.Event | None

    def read(self) -> list[tuple[Slot, int, bool]]:
        """(slot, answers, hit) of every slot still in the run that the flags are about."""
        if self.arrived is not None:
            self.arrived.synchronize()
        hits = self.hit.tolist()
        return [(s, n, hits[lane]) for lane, (s, run, n) in enumerate(self.slots) if not s.gone and s.run == run]
