"""APGD in the l1 ball: Croce and Hein 2021 (arXiv 2103.01208), steps as sparse as the best point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.lanes import Answer, Lanes, Rows, choose
from regfast.attacks.norms import L1


@dataclass
class SparseState(Rows):
    """What a lane holds."""

    size: Tensor  # (S,) step size, in eps
    share: Tensor  # (S,) share of the entries that a step moves
    nonzeros: Tensor  # (S,) entries that the best point had changed at the last check
    best: Tensor  # (S, C, H, W) the point of largest loss in this phase
    best_gradient: Tensor  # (S, C, H, W)
    best_loss: Tensor  # (S,)


class SparseAscent:
    """Steps along the signs of the gradient's largest entries; with `larger` through balls of 3, 2 and 1 eps.

    Each phase (30, 30 and 40 % of the moves) begins at the best point of the last one, projected, and asks for it
    again; only points of the last phase count.
    """

    first_share = 0.2
    slow, least = 1.5, 10.0  # what the step size is divided by, and its floor: eps / 10

    def __init__(self, norm: L1, steps: int, larger: bool):
        self.norm, self.larger = norm, larger
        moves = [math.ceil(0.3 * steps), math.ceil(0.3 * steps)] if larger else []
        moves.append(max(steps - sum(moves), 1))
        radii = [3.0, 2.0, 1.0] if larger else [1.0]
        self.first_radius = radii[0]  # in eps, as all radii here
        self.counts_from = sum(m + 1 for m in moves[:-1])
        radius: list[float] = []  # per answer of the run: the phase's ball
        begin: list[bool] = []  # the phase's first answer
        check: list[bool] = []  # sparsity and step size adapt
        last: list[bool] = []  # the phase's last answer: the next point is the next phase's start
        for count, ball in zip(moves, radii, strict=True):
            interval = max(int(0.04 * count), 1)
            for answer in range(count + 1):
                radius.append(ball)
                begin.append(answer == 0)
                check.append(answer > 0 and answer % interval == 0)
                last.append(answer == count)
        self.steps = len(radius) - 1
        self.radius = torch.tensor([*radius, 1.0])
        self.begin, self.check, self.last = (torch.tensor(flags) for flags in (begin, check, last))

    def state(self, lanes: Lanes) -> SparseState:
        at = lanes.image.device
        self.radius, self.begin, self.check, self.last = (
            table.to(at) for table in (self.radius, self.begin, self.check, self.last)
        )
        zeros = lanes.full(0.0)
        return SparseState(
            size=zeros.clone(), share=zeros.clone(), nonzeros=zeros.clone(), best=lanes.image.clone(),
            best_gradient=lanes.image.clone(), best_loss=zeros.clone(),
        )  # fmt: skip

    def advance(self, lanes: Lanes, state: SparseState, answer: Answer) -> None:
        s, loss, step = state, answer.loss, lanes.step.clamp(max=self.steps)
        entries = lanes.image[0].numel() if len(lanes) else 1
        begin, check, last, radius = self.begin[step], self.check[step], self.last[step], self.radius[step]

        if self.larger:
            nonzeros = _nonzeros(lanes.point - lanes.image)
            share = nonzeros / entries / 1.5
        else:
            nonzeros, share = torch.full_like(loss, entries), torch.full_like(loss, self.first_share)
        s.size = torch.where(begin, radius, s.size)
        s.nonzeros = torch.where(begin, nonzeros, s.nonzeros)
        s.share = torch.where(begin, share, s.share)

        better = begin | (loss > s.best_loss)
        s.best_loss = torch.where(better, loss, s.best_loss)
        s.best = choose(better, lanes.point, s.best)
        s.best_gradient = choose(better, answer.gradient, s.best_gradient)

        nonzeros = _nonzeros(s.best - lanes.image)
        sparser = check & (nonzeros / s.nonzeros < 0.95)
        size = torch.where(sparser, radius, s.size / self.slow)
        size = torch.minimum(torch.maximum(size, radius / self.least), radius)
        s.size = torch.where(check, size, s.size)
        s.share = torch.where(check, nonzeros / entries / 1.5, s.share)
        s.nonzeros = torch.where(check, nonzeros, s.nonzeros)
        point = choose(sparser, s.best, lanes.point)
        gradient = choose(sparser, s.best_gradient, answer.gradient)

        # A phase's last answer leads to its best point, in the next phase's ball.
        eps = lanes.radius()
        moved = self.norm.sparse_step(point, gradient, lanes.image, s.size * eps, radius * eps, s.share)
        following = self.norm.project(s.best, lanes.image, self.radius[step + 1] * eps) if self.larger else moved
        lanes.point = choose(last, following, moved)


def _nonzeros(delta: Tensor) -> Tensor:
    return (delta != 0).flatten(1).sum(1).to(torch.float32)
