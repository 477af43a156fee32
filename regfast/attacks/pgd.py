"""Projected gradient descent: Madry et al. 2018 (arXiv 1706.06083), with momentum as in Dong et al. 2018."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.losses import checked_loss
from regfast.attacks.norms import Norm, norm_of
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, checked_count, checked_eps, checked_number
from regfast.ops.lanes import near_one


@dataclass
class Velocity(Rows):
    """PGD's state: the decaying sum of gradients, empty without momentum."""

    velocity: Tensor  # (S, C, H, W) or (S, 0)


@ATTACKS.register("pgd")
class PGD(Attack):
    """Steps of fixed size along the gradient's ascent direction, each projected to ball and box.

    Args:
        norm: "linf", "l2" or "l1".
        eps: radius, in units of images in [0, 1]; a tensor for one per sample, channel or feature (`checked_eps`).
        steps: moves per restart.
        restarts: runs from fresh random starts, one after the other, for samples that are still right.
        step_size: length of a move; 2.5 · eps / steps by default, in l1 twice that: its projection takes more back.
        momentum: decay μ of the velocity `v ← μ v + g / ‖g‖₁`; 0 climbs the gradient itself.
        loss: "ce", "dlr", "margin" or "probability-margin".
        random_start: begin at a random point of the ball (uniform for linf), else at the image. None: so from the
            second run on in l1, where noise spread over all entries uses up the ball, and always in linf and l2.

    >>> result = PGD("linf", 8 / 255, steps=20).run(model, images, labels, seed=0)
    >>> robust = result.robust_accuracy
    """

    name = "pgd"

    def __init__(
        self,
        norm: str | Norm = "linf",
        eps: Eps = 8 / 255,
        steps: int = 20,
        restarts: int = 1,
        *,
        step_size: float | None = None,
        momentum: float = 0.0,
        loss: str = "ce",
        random_start: bool | None = None,
    ):
        self.norm = norm_of(norm)
        l1 = self.norm.name == "l1"
        self.way = 5.0 if l1 else 2.5  # the length of all moves together, in eps, where no step size is given
        self.eps: Eps = checked_eps(eps)
        self.steps = checked_count("steps", steps)
        self.runs = checked_count("restarts", restarts)
        self._moves, self._step_size = self.steps, None
        if step_size is not None:
            self._step_size = checked_number("step_size", step_size)
        self.momentum = checked_number("momentum", momentum)
        self.loss = checked_loss(loss)
        self.random_start = not l1 if random_start is None else random_start
        self._first_random_run = 0 if self.random_start else 1 if random_start is None else self.runs

    @property
    def step_size(self) -> Eps:
        """Length of a move."""
        return self._size(self.eps)

    def _size(self, eps: Eps) -> Eps:
        return self.way * eps / self._moves if self._step_size is None else self._step_size

    def state(self, lanes: Lanes) -> Velocity:
        return Velocity(torch.zeros_like(lanes.image) if self.momentum else lanes.image.new_empty(len(lanes), 0))

    def start(self, lanes: Lanes, state: Velocity, fresh: Tensor) -> None:
        begin = lanes.image[fresh]
        if self._first_random_run < self.runs:
            drawn = self.norm.random_start(lanes, fresh, lanes.radius(fresh))
            begin = torch.where(per_lane(lanes.run[fresh] >= self._first_random_run, begin), drawn, begin)
        lanes.point[fresh] = begin
        state.velocity[fresh] = 0.0

    def advance(self, lanes: Lanes, state: Velocity, answer: Answer) -> None:
        uphill = answer.gradient
        if self.momentum:
            uphill = near_one(uphill)
            length = uphill.flatten(1).abs().sum(1)
            uphill = state.velocity = self.momentum * state.velocity + uphill / per_lane(length + 1e-12, uphill)
        eps = lanes.radius()
        lanes.point = self.norm.step(lanes.point, uphill, lanes.image, self._size(eps), eps)
