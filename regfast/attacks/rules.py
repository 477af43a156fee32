"""The rules of an attack: what one subclasses (as `base.Attack`), and all that the engine knows of it.

An attack is a per-sample state machine. It says what a lane's state is (`state`), how a run starts (`start`), what it
needs of the model (`needs`, `objective`), when a point counts (`hit`), how it moves (`advance`) and how long a run
lasts (`steps`). The engine (engine.py) holds the only loop: it keeps the lanes full, asks the model, and confirms
successes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from regfast.attacks.lanes import Answer, Lanes, Nothing, Rows
from regfast.attacks.losses import Objective, objective, towards
from regfast.attacks.norms import Norm
from regfast.attacks.prepare import Model


class Plan(NamedTuple):
    """Targets (M, T) int64, in the order they are tried, and what finding them cost per sample."""

    targets: Tensor
    gradients: int = 0
    queries: int = 0


class Rules(ABC):
    """One attack, as rules for a lane.

    Attributes:
        name: what `AttackResult.stage` says of samples it broke.
        norm: the perturbation's norm, an object of norms.py.
        eps: radius of the ball; None for attacks that look for the nearest adversarial point.
        needs: "gradient" of the objective, "forward" only, or "jacobian" (gradients of all logits).
        samples: answers averaged at each point (EOT), for models that answer at random.
        steps: moves of one run: the model is asked at steps + 1 points.
        runs: runs (restarts) per sample, or per target where there are targets.
        minimal_norm: look for the nearest adversarial point of every sample with all steps; with `eps` any inside will
            do, and those outside don't count.
        levels: the model is asked at points rounded to this many levels a pixel, and they alone count (256: images
            that a PNG holds exactly); the attack itself moves freely. None rounds nothing.
        loss: name of the objective, see losses.py.
    """

    name: str = ""
    norm: Norm
    eps: float | None
    needs: Literal["gradient", "forward", "jacobian"] = "gradient"
    samples: int = 1
    steps: int
    runs: int = 1
    minimal_norm: bool = False
    levels: int | None = None
    loss: str = "ce"

    @property
    def seeks_nearest(self) -> bool:
        """Whether samples stay for all runs and get their nearest adversarial point."""
        return self.minimal_norm and self.eps is None

    def plan(self, model: Model, images: Tensor, labels: Tensor, logits: Tensor) -> Plan | None:
        """The targets of every sample, each for `self.runs` runs, or None: `self.runs` runs without a target.

        Args:
            model: differentiable, images in [0, 1] on the model's device to logits.
            images: (M, C, H, W) clean images of some samples, on the model's device.
            labels: (M,) int64.
            logits: (M, K) float32 of the clean images.
        """
        return None

    def state(self, lanes: Lanes) -> Rows:
        """The attack's own tensors, one row a lane; their values are set by `start`."""
        return Nothing()

    @abstractmethod
    def start(self, lanes: Lanes, state: Any, fresh: Tensor) -> None:
        """Begin a run (a sample, restart or target) in the lanes `fresh` (M,) int64: set their `lanes.point`.

        `lanes.run` is 0 where the sample is new; where it is not, `state` still holds what the run before left.
        """

    @abstractmethod
    def advance(self, lanes: Lanes, state: Any, answer: Answer) -> None:
        """Answer to `lanes.point` → the next `lanes.point` (a new tensor), for all lanes.

        Every answer of a run comes here, the last one too (`lanes.step == self.steps`): its gradient is 0, as nobody
        computes it, and the point it leads to is not asked. `lanes.step` is the number of moves made before this one
        in the run. Must not wait for the device: no `.item()`, no boolean indexing.
        """

    def objective(self, lanes: Lanes, state: Any, logits: Tensor) -> Objective:
        """What the attack raises: per-lane loss, prediction, and gradient on the logits (S, K)."""
        if lanes.must_reach:
            return towards(self.loss, logits, lanes.target)
        name = f"{self.loss}-targeted" if lanes.has_target else self.loss
        return objective(name, logits, lanes.label, lanes.target)

    def hit(self, lanes: Lanes, state: Any, answer: Answer) -> Tensor:
        """(S,) bool: the present point may count, if adversarial. The engine adds the rest."""
        return torch.ones_like(lanes.label, dtype=torch.bool)


def checked_eps(eps: float, *, name: str = "eps") -> float:
    """`eps` if it is a length ≥ 0."""
    if not isinstance(eps, int | float) or not 0 <= eps < math.inf:
        raise ValueError(f"{name} must be a number ≥ 0, got {eps!r}")
    return float(eps)


def checked_count(name: str, value: int, least: int = 1) -> int:
    """`value` if it is an integer of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")
    return value


def checked_levels(levels: int | None) -> int | None:
    """`levels` if it is None or an integer of at least 2."""
    return None if levels is None else checked_count("levels", levels, least=2)
