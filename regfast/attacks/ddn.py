"""DDN, decoupled direction and norm: Rony et al. 2019 (arXiv 1811.09600), algorithm 1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.norms import L2
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, checked_count, checked_eps, checked_levels, checked_number


@dataclass
class Sphere(Rows):
    """DDN's state."""

    radius: Tensor  # (S,) of the sphere that the next point lies on


@ATTACKS.register("ddn")
class DDN(Attack):
    """Nearest adversarial point in l2: climb the cross-entropy on a sphere that shrinks inside and grows outside.

    Args:
        eps: leave once an adversarial point lies within; None looks for the nearest with all steps.
        steps: moves per sample.
        gamma: share by which the sphere's radius changes a move, 0 to 1.
        radius: of the first sphere.
        levels: find points with so many levels a pixel (256: images that a PNG holds exactly); None for any.
    """

    name = "ddn"
    minimal_norm = True
    loss = "ce"

    def __init__(
        self,
        eps: Eps | None = None,
        steps: int = 100,
        *,
        gamma: float = 0.05,
        radius: float = 1.0,
        levels: int | None = None,
    ):
        self.norm = L2()
        self.eps = None if eps is None else checked_eps(eps)
        self.steps = checked_count("steps", steps)
        if not 0 < gamma < 1:
            raise ValueError(f"gamma must be between 0 and 1, got {gamma}")
        self.gamma, self.radius = gamma, checked_number("radius", radius)
        self.levels = checked_levels(levels)

    def state(self, lanes: Lanes) -> Sphere:
        return Sphere(lanes.full(0.0))

    def start(self, lanes: Lanes, state: Sphere, fresh: Tensor) -> None:
        lanes.point[fresh] = lanes.image[fresh]
        state.radius[fresh] = self.radius

    def advance(self, lanes: Lanes, state: Sphere, answer: Answer) -> None:
        inside = lanes.succeeded(answer.prediction)
        corner = self.norm.distance(torch.maximum(lanes.image, 1 - lanes.image))  # the farthest point of the box
        grown = state.radius * torch.where(inside, 1 - self.gamma, 1 + self.gamma)
        state.radius = torch.minimum(grown, corner)
        cosine = (1 + torch.cos(lanes.step * (math.pi / self.steps))) / 2
        length = 0.01 + 0.99 * cosine
        delta = lanes.point - lanes.image + per_lane(length, lanes.image) * self.norm.ascent(answer.gradient)
        point = lanes.image + per_lane(state.radius, delta) * self.norm.ascent(delta)
        lanes.point = point.clamp(0, 1)
