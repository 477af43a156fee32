"""PGD that does not stop at the first point that fools its model: what a transfer attack is made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regfast.attacks import PGD
from regfast.attacks.lanes import Answer, Lanes, per_lane
from regfast.attacks.pgd import Velocity


@dataclass
class Best(Velocity):
    """PGD's state, and the best point of the run so far."""

    wrong: Tensor  # (S,) bool: does it fool the model?
    loss: Tensor  # (S,)
    point: Tensor  # (S, C, H, W)


class FullPGD(PGD):
    """PGD that goes all its steps and gives the point of largest loss; one that fools the model is before all others.

    The first point that fools the source lies at the source's own boundary and says little of another model: transfer
    papers (Dong et al. 2018) run the attack to its end. Its success on the source itself is plain PGD's.

    Args:
        norm, eps, steps: as `PGD` with one restart.
    """

    name = "full-pgd"

    def __init__(self, norm: str = "linf", eps: float = 8 / 255, steps: int = 20):
        super().__init__(norm, eps, steps)
        self.moves = steps
        self.steps = steps + 1  # after the last move's answer one more move: back to the best point

    def state(self, lanes: Lanes) -> Best:
        """Nothing found yet."""
        empty = lanes.full(False), lanes.full(-torch.inf), lanes.image.clone()
        return Best(super().state(lanes).velocity, *empty)

    def start(self, lanes: Lanes, state: Any, fresh: Tensor) -> None:
        """As PGD."""
        super().start(lanes, state, fresh)
        state.wrong[fresh], state.loss[fresh] = False, -torch.inf

    def advance(self, lanes: Lanes, state: Any, answer: Answer) -> None:
        """As PGD, and back to the best point at the end."""
        wrong = answer.prediction != lanes.label
        better = (wrong & ~state.wrong) | ((wrong == state.wrong) & (answer.loss > state.loss))
        state.point = torch.where(per_lane(better, lanes.point), lanes.point, state.point)
        state.wrong, state.loss = state.wrong | wrong, torch.where(better, answer.loss, state.loss)
        super().advance(lanes, state, answer)
        lanes.point = torch.where(per_lane(lanes.step >= self.moves, lanes.point), state.point, lanes.point)

    def hit(self, lanes: Lanes, state: Any, answer: Answer) -> Tensor:
        """Only the last point counts."""
        return lanes.step > self.moves
