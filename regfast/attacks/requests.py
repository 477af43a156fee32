"""The host's side of the engine: the samples, the requests in the lanes, flags on their way, and what came out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Samples:
    """N samples to attack; tensors on the images' device."""

    images: Tensor  # (N, C, H, W) clean, in [0, 1]
    labels: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64 key the random draws
    targets: Tensor | None = None  # (N, T) int64 classes to move to, one after the other
    eps: float | Tensor | None = None  # radius: one for all, (N,), or (N, C, H, W) with dimensions of 1


@dataclass
class Outcomes:
    """What is known of all N samples; tensors on the images' device, written as lanes are decided."""

    images: Tensor  # (N, C, H, W) clean, replaced by what the attack hands back
    broken: Tensor  # (N,) bool
    prediction: Tensor  # (N,) int64
    gradients: Tensor  # (N,) int64
    queries: Tensor  # (N,) int64
    distance: Tensor  # (N,) float32
    loss: Tensor  # (N,) float32


@dataclass(eq=False)
class Request:
    """A sample in a lane, as the host knows it."""

    item: int  # row of the sample
    lane: int
    run: int = 0
    answers: int = 0  # in this run
    gradients: int = 0  # for this sample, in this attack
    queries: int = 0
    done: bool = False


@dataclass
class Flags:
    """Which lanes held a point that counts, on its way to the host."""

    requests: list[tuple[Request | None, int, int]]  # per lane, with the run and the answers that the flag is about
    hit: Tensor  # (S,) bool in host memory
    arrived: torch.cuda.Event | None

    def read(self) -> list[tuple[Request, int, int, bool]]:
        """(request, run, answers, hit) of every lane whose request is still there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        hits = self.hit.tolist()
        return [(r, run, n, hits[lane]) for lane, (r, run, n) in enumerate(self.requests) if r and not r.done]
