"""Auto-PGD: Croce and Hein 2020 (arXiv 2003.01690), as AutoAttack runs it; for l1 Croce and Hein 2021 (apgd_l1.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regfast.attacks.apgd_l1 import SparseAscent
from regfast.attacks.base import Attack
from regfast.attacks.classifier import Model
from regfast.attacks.lanes import Answer, Lanes, Rows, times
from regfast.attacks.losses import checked_loss
from regfast.attacks.norms import L1, Norm, norm_of
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, Plan, checked_count, checked_eps
from regfast.attacks.target_order import checked_order, order_targets
from regfast.ops.lanes import ascend

NAMES = {"ce": "apgd-ce", "dlr": "apgd-dlr", "margin": "apgd-margin", "probability-margin": "apgd-pma"}


@ATTACKS.register("apgd")
class APGD(Attack):
    """Momentum steps whose size halves by itself when the loss stops rising.

    Args:
        norm: "linf", "l2" or "l1".
        eps: radius, in units of images in [0, 1], or a tensor of them (`checked_eps`).
        steps: moves per restart or target.
        restarts: runs from fresh random starts (for each target), for samples that are still right.
        loss: "ce", "dlr", "margin" or "probability-margin" (PMA). With `targets` the targeted form of it.
        targets: 0 moves away from the label; n > 0 runs at the n most promising other classes, one after the other
            (fewer if there are fewer classes). Any misclassification is a success.
        target_order: "rank" of the clean logits (AutoAttack's) or "malt", see target_order.py.
        samples: gradients averaged at each point, for models that answer at random (EOT).
        larger_eps: l1 only: search in balls of 3 and 2 eps first.
    """

    def __init__(
        self,
        norm: str | Norm = "linf",
        eps: Eps = 8 / 255,
        steps: int = 100,
        restarts: int = 1,
        *,
        loss: str = "ce",
        targets: int = 0,
        target_order: str = "rank",
        samples: int = 1,
        larger_eps: bool = True,
    ):
        self.norm = norm_of(norm)
        self.eps: Eps = checked_eps(eps)
        self.loss = checked_loss(loss)
        self.targets = checked_count("targets", targets, least=0)
        self.target_order = checked_order(target_order)
        self.name = "apgd-t" if targets else NAMES[loss]
        self.runs = checked_count("restarts", restarts)
        self.samples = checked_count("samples", samples)
        moves = checked_count("steps", steps)
        self._rule: Ascent | SparseAscent
        if isinstance(self.norm, L1):
            self._rule = SparseAscent(self.norm, moves, larger_eps)
        else:
            self._rule = Ascent(self.norm, moves)
        self.steps = self._rule.steps

    def plan(self, model: Model, images: Tensor, labels: Tensor, logits: Tensor) -> Plan | None:
        if not self.targets:
            return None
        return order_targets(self.target_order, self.targets, self.norm, model, images, labels, logits)

    def state(self, lanes: Lanes) -> Rows:
        return self._rule.state(lanes)

    def start(self, lanes: Lanes, state: Any, fresh: Tensor) -> None:
        lanes.point[fresh] = self.norm.far_start(lanes, fresh, self._rule.first_radius * lanes.radius(fresh))

    def hit(self, lanes: Lanes, state: Any, answer: Answer) -> Tensor | None:
        return lanes.step >= self._rule.counts_from if self._rule.counts_from else None

    def advance(self, lanes: Lanes, state: Any, answer: Answer) -> None:
        self._rule.advance(lanes, state, answer)


@dataclass
class AscentState(Rows):
    """What a lane of APGD holds (linf, l2)."""

    size: Tensor  # (S,) step size, in eps
    previous: Tensor  # (S, C, H, W) the point before this one
    best: Tensor  # (S, C, H, W) the point of largest loss in this run
    best_gradient: Tensor  # (S, C, H, W)
    best_loss: Tensor  # (S,)
    last_loss: Tensor  # (S,)
    rises: Tensor  # (S,) moves since the last checkpoint that raised the loss
    checked_loss: Tensor  # (S,) the best loss at the last checkpoint
    halved: Tensor  # (S,) bool: the step size was halved there


class Ascent:
    """APGD's rule (algorithm 1): first step 2 eps; at checkpoints, halve it and return to the best point or go on."""

    counts_from = 0
    rho = 0.75

    first_radius = 1.0  # of the ball that runs start in, in eps

    def __init__(self, norm: Norm, steps: int):
        self.norm, self.steps = norm, steps
        # The interval that ends at each move, 0 where none does: intervals shrink by 0.03 n down to 0.06 n.
        ends = [0] * (steps + 2)
        interval, move = max(int(0.22 * steps), 1), 0
        while (move := move + interval) <= steps:
            ends[move] = interval
            interval = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        self.ends = torch.tensor(ends, dtype=torch.float32)

    def state(self, lanes: Lanes) -> AscentState:
        self.ends = self.ends.to(lanes.image.device)
        zeros = lanes.full(0.0)
        return AscentState(
            size=zeros.clone(), previous=lanes.image.clone(), best=lanes.image.clone(),
            best_gradient=lanes.image.clone(), best_loss=zeros.clone(), last_loss=zeros.clone(), rises=zeros.clone(),
            checked_loss=zeros.clone(), halved=lanes.full(True),
        )  # fmt: skip

    def advance(self, lanes: Lanes, state: AscentState, answer: Answer) -> None:
        s, eps = state, lanes.radius()
        by_lane = not isinstance(eps, Tensor) or eps.ndim == 1
        now = ascend(
            lanes.point, answer.gradient, answer.loss, lanes.step, s.best, s.best_gradient, s.size, s.best_loss,
            s.last_loss, s.rises, s.checked_loss, s.halved, self.ends, eps if by_lane else 1.0, self.rho,
        )  # fmt: skip
        length = now.length if by_lane else times(now.length, eps)
        lanes.point = self.norm.momentum_step(
            now.point, now.gradient, s.previous, lanes.image, length, eps, now.momentum
        )
        s.previous, s.best, s.best_gradient, s.size = now.point, now.best, now.best_gradient, now.size
        s.best_loss, s.last_loss, s.rises = now.best_loss, now.last_loss, now.rises
        s.checked_loss, s.halved = now.checked_loss, now.halved
