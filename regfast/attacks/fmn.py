"""FMN, fast minimum-norm attack: Pintor et al. 2021 (arXiv 2102.12827), algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.norms import L2, TINY, Norm, norm_of
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, checked_count, checked_eps, checked_levels, checked_number


@dataclass
class Ball(Rows):
    """FMN's state."""

    radius: Tensor  # (S,) of the ball that the next point lies in
    nearest: Tensor  # (S,) distance of the nearest adversarial point of this run; inf before there is one


@ATTACKS.register("fmn")
class FMN(Attack):
    """Nearest adversarial point in linf, l2 or l1: climb the margin in a ball that shrinks inside and grows outside.

    Until the first success the radius is the distance at which the linearized margin is zero.

    Args:
        norm: "linf", "l2" or "l1".
        eps: leave once an adversarial point lies within; None looks for the nearest with all steps.
        steps: moves per sample.
        step_size: first length of a move along the gradient (l2, in units of images in [0, 1]); a cosine takes it to
            1/100 of that.
        gamma: first and last share by which the radius changes a move.
        levels: find points with so many levels a pixel (256: images that a PNG holds exactly); None for any.
    """

    name = "fmn"
    minimal_norm = True
    loss = "margin"

    def __init__(
        self,
        norm: str | Norm = "linf",
        eps: Eps | None = None,
        steps: int = 100,
        *,
        step_size: float = 1.0,
        gamma: tuple[float, float] = (0.05, 0.001),
        levels: int | None = None,
    ):
        self.norm = norm_of(norm)
        self.eps = None if eps is None else checked_eps(eps)
        self.steps = checked_count("steps", steps)
        self.step_size = checked_number("step_size", step_size)
        if len(gamma) != 2 or not all(0 < value < 1 for value in gamma):
            raise ValueError(f"gamma must be two shares between 0 and 1, got {gamma}")
        self.gamma = gamma
        self.levels = checked_levels(levels)

    def state(self, lanes: Lanes) -> Ball:
        return Ball(lanes.full(0.0), lanes.full(0.0))

    def start(self, lanes: Lanes, state: Ball, fresh: Tensor) -> None:
        lanes.point[fresh] = lanes.image[fresh]
        state.radius[fresh] = torch.inf
        state.nearest[fresh] = torch.inf

    def advance(self, lanes: Lanes, state: Ball, answer: Answer) -> None:
        image, gradient = lanes.image, answer.gradient
        inside = lanes.succeeded(answer.prediction)
        distance = self.norm.distance(lanes.point - image)
        state.nearest = torch.where(inside, torch.minimum(state.nearest, distance), state.nearest)
        cosine = (1 + torch.cos(lanes.step * (math.pi / self.steps))) / 2
        share = self.gamma[1] + (self.gamma[0] - self.gamma[1]) * cosine
        length = self.step_size * (0.01 + 0.99 * cosine)
        to_boundary = answer.loss.abs() / (self.norm.dual(gradient) + TINY)
        # The last share goes beyond the boundary: on a linear model the radius would end just short of it.
        reach = (distance + to_boundary) * (1 + self.gamma[1])
        outside = torch.where(state.nearest.isfinite(), state.radius * (1 + share), reach)
        radius = torch.where(inside, torch.minimum(state.radius * (1 - share), state.nearest), outside)
        corner = self.norm.distance(torch.maximum(image, 1 - image))  # the farthest point of the box
        state.radius = torch.minimum(radius, corner)
        climbed = lanes.point + per_lane(length, image) * L2().ascent(gradient)
        lanes.point = self.norm.project(climbed, image, state.radius)
