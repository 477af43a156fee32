"""Square Attack: Andriushchenko et al. 2020 (arXiv 1912.00049): random squares, kept where they lower the margin."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.lanes import Answer, Lanes, Rows, choose
from regfast.attacks.norms import Norm, norm_of
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, checked_count, checked_eps, checked_number
from regfast.attacks.square_moves import Bumps, Squares

# Queries after which the squares' share of the image is halved (the paper's, for any number of queries).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass
class Best(Rows):
    """Square's state."""

    point: Tensor  # (S, C, H, W) the point of least margin so far
    loss: Tensor  # (S,) minus that margin
    moves: Squares | Bumps
    halved: Callable[[Tensor], Tensor]  # how often the squares' share was halved before a step


@ATTACKS.register("square")
class Square(Attack):
    """Random search by forward passes alone: no gradient to mask.

    Windows, signs and the start are drawn per sample, over the whole image (the reference shares windows over the batch
    and never reaches the last row and column); the schedule is the reference's.

    Args:
        norm: "linf", "l2" or "l1".
        eps: radius, in units of images in [0, 1], or a tensor of them (`checked_eps`).
        steps: queries after the first, per restart.
        restarts: runs from fresh starts, for samples that are still right.
        p_init: share of the image that the first squares cover, 0 to 1.
        loss: what a kept square raises: "margin", or "ce".
    """

    name = "square"
    needs = "forward"

    def __init__(
        self,
        norm: str | Norm = "linf",
        eps: Eps = 8 / 255,
        steps: int = 5000,
        restarts: int = 1,
        *,
        p_init: float = 0.8,
        loss: str = "margin",
    ):
        self.norm = norm_of(norm)
        self.eps: Eps = checked_eps(eps)
        self.steps = checked_count("steps", steps)
        self.runs = checked_count("restarts", restarts)
        if checked_number("p_init", p_init, 0, 1) == 0:
            raise ValueError(f"p_init must be above 0, got {p_init}")
        if loss not in ("margin", "ce"):
            raise ValueError(f"loss must be 'margin' or 'ce', got {loss!r}")
        self.p_init, self.loss = float(p_init), loss

    def check_images(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 4:
            raise ValueError(f"square needs images of shape (N, C, H, W) to draw squares in, got {shape}: leave it out")

    def state(self, lanes: Lanes) -> Best:
        height, width = lanes.image.shape[-2:]
        sides = [math.sqrt(self.p_init / 2**k * height * width) for k in range(len(HALVINGS) + 1)]
        moves = Squares(sides, lanes) if self.norm.name == "linf" else Bumps(self.norm, sides, lanes)
        halvings = torch.tensor(HALVINGS, device=lanes.image.device)
        return Best(lanes.image.clone(), lanes.full(0.0), moves, lambda step: torch.bucketize(step, halvings))

    def start(self, lanes: Lanes, state: Best, fresh: Tensor) -> None:
        lanes.point[fresh] = state.moves.start(lanes, fresh)
        state.loss[fresh] = -torch.inf

    def advance(self, lanes: Lanes, state: Best, answer: Answer) -> None:
        better = answer.loss > state.loss
        state.point = choose(better, lanes.point, state.point)
        state.loss = torch.maximum(state.loss, answer.loss)
        lanes.point = state.moves.move(lanes, state.point, state.halved(lanes.step))
