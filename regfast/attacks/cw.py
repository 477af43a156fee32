"""Carlini and Wagner 2017 (arXiv 1608.04644), the l2 attack: an example of an attack with state across its runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.lanes import Answer, Lanes, Rows, per_lane
from regfast.attacks.norms import L2
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, checked_count, checked_eps, checked_levels, checked_number

EDGE = 1 - 1e-6  # images are drawn this little towards gray: arctanh is infinite at the box's edge
BETAS, TINY = (0.9, 0.999), 1e-8  # Adam's


@dataclass
class Search(Rows):
    """What a lane holds: the variable that Adam moves in this run, and the search for `c` over all runs of a sample."""

    variable: Tensor  # (S, C, H, W) w, with point = (tanh(w) + 1) / 2
    mean: Tensor  # (S, C, H, W) Adam's first moment
    square: Tensor  # (S, C, H, W) and second
    c: Tensor  # (S,) weight of the margin against the distance
    low: Tensor  # (S,) the largest c that found nothing
    high: Tensor  # (S,) the least c that found something; inf before one did
    found: Tensor  # (S,) bool: this run found something


@ATTACKS.register("cw")
class CarliniWagner(Attack):
    """Nearest adversarial point in l2: Adam on ‖x' - x‖² + c · max(z_label - max_other z, -confidence).

    A binary search over c, one run a value; a c that finds something is made smaller, else larger. The box is kept by
    the change of variables x' = (tanh(w) + 1) / 2.

    Args:
        eps: leave once an adversarial point lies within; None looks for the nearest with all runs.
        steps: moves per run.
        searches: runs of the binary search over c.
        initial: the first c.
        lr: Adam's learning rate, on w.
        confidence: how far the wrong logit shall lead, ≥ 0.
        levels: find points with so many levels a pixel (256: images that a PNG holds exactly); None for any.
    """

    name = "cw"
    minimal_norm = True
    loss = "margin"

    def __init__(
        self,
        eps: Eps | None = None,
        steps: int = 200,
        searches: int = 9,
        *,
        initial: float = 1e-2,
        lr: float = 1e-2,
        confidence: float = 0.0,
        levels: int | None = None,
    ):
        self.norm = L2()
        self.eps = None if eps is None else checked_eps(eps)
        self.steps = checked_count("steps", steps)
        self.levels = checked_levels(levels)
        self.runs = checked_count("searches", searches)
        self.initial, self.lr = checked_number("initial", initial), checked_number("lr", lr)
        self.confidence = checked_number("confidence", confidence)

    def state(self, lanes: Lanes) -> Search:
        images = lanes.image.clone(), lanes.image.clone(), lanes.image.clone()
        return Search(*images, c=lanes.full(0.0), low=lanes.full(0.0), high=lanes.full(0.0), found=lanes.full(False))

    def start(self, lanes: Lanes, state: Search, fresh: Tensor) -> None:
        new, found, c = lanes.run[fresh] % self.runs == 0, state.found[fresh], state.c[fresh]
        low = torch.where(new, 0.0, torch.where(found, state.low[fresh], c))
        high = torch.where(new, torch.inf, torch.where(found, c, state.high[fresh]))
        state.low[fresh], state.high[fresh] = low, high
        state.c[fresh] = torch.where(new, self.initial, torch.where(high.isinf(), 10 * c, (low + high) / 2))
        state.found[fresh] = False
        state.variable[fresh] = ((2 * lanes.image[fresh] - 1) * EDGE).atanh()
        state.mean[fresh] = state.square[fresh] = 0.0
        lanes.point[fresh] = lanes.image[fresh]

    def hit(self, lanes: Lanes, state: Search, answer: Answer) -> Tensor | None:
        return answer.loss > self.confidence if self.confidence else None

    def advance(self, lanes: Lanes, state: Search, answer: Answer) -> None:
        s = state
        led = self.hit(lanes, state, answer)
        hit = lanes.succeeded(answer.prediction)
        s.found = s.found | (hit if led is None else hit & led)
        margin = per_lane(s.c * (answer.loss < self.confidence), lanes.point)
        slope = (2 * (lanes.point - lanes.image) - margin * answer.gradient) * (1 - s.variable.tanh() ** 2) / 2
        s.mean = BETAS[0] * s.mean + (1 - BETAS[0]) * slope
        s.square = BETAS[1] * s.square + (1 - BETAS[1]) * slope**2
        moves = (lanes.step + 1).to(slope.dtype)
        mean, square = (m / per_lane(1 - b**moves, m) for m, b in ((s.mean, BETAS[0]), (s.square, BETAS[1])))
        s.variable = s.variable - self.lr * mean / (square.sqrt() + TINY)
        lanes.point = (s.variable.tanh() + 1) / 2
