"""The rules of an attack: what one subclasses (as `base.Attack`), and all that the engine knows of it.

An attack is a per-sample state machine. It says what a lane's state is (`state`), how a run starts (`start`), what it
needs of the model (`needs`, `objective`), when a point counts (`hit`), how it moves (`advance`) and how long a run
lasts (`steps`). The engine (engine.py) holds the only loop: it keeps the lanes full, asks the model, and confirms
successes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

from torch import Tensor

from regfast.attacks.classifier import Model
from regfast.attacks.lanes import Answer, Lanes, Nothing, Rows
from regfast.attacks.losses import Objective, objective, towards
from regfast.attacks.norms import Norm

Eps = float | Tensor  # a radius, or several; see `checked_eps`


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
        eps: radius of the ball, or several (`checked_eps`); None: look for the nearest adversarial point.
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
    eps: Eps | None
    needs: Literal["gradient", "forward", "jacobian"] = "gradient"
    samples: int = 1
    steps: int
    runs: int = 1
    minimal_norm: bool = False
    levels: int | None = None
    loss: str = "ce"

    def check_images(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for images (N, …) of a shape that the attack can't work on; asked before the first stage."""
        return

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

    def hit(self, lanes: Lanes, state: Any, answer: Answer) -> Tensor | None:
        """(S,) bool: the present point may count, if adversarial; None: each may. The engine adds the rest."""
        return None


def checked_eps(eps: Eps) -> Eps:
    """`eps` if it is a length ≥ 0, or a float tensor of them.

    A tensor with one dimension, (N,), holds one for each sample; with the dimensions of an image, (C, 1, 1) or
    (C, H, W), one for each channel or feature, in linf only; with one more, (N, …), both.
    """
    if isinstance(eps, Tensor) and eps.ndim:
        if not eps.is_floating_point() or not bool(((eps >= 0) & eps.isfinite()).all()):
            raise ValueError(f"eps must hold finite floats ≥ 0, got {eps.dtype} from {eps.min()} to {eps.max()}")
        return eps.detach().float()
    return checked_number("eps", eps)


def checked_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> float:
    """`value` as a float, if it is a finite number (of Python, NumPy, or a 0-d tensor) in [low, high]."""
    number = _plain(value)
    if not isinstance(number, Real) or not math.isfinite(number) or not low <= float(number) <= high:
        wanted = f"≥ {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
        raise ValueError(f"{name} must be a number {wanted}, got {value!r}")
    return float(number)


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int, if it is an integer (of Python, NumPy, or a 0-d tensor) of at least `least`."""
    number = _plain(value)
    if not isinstance(number, Integral) or number < least:
        raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")
    return int(number)


def checked_levels(levels: int | None) -> int | None:
    """`levels` if it is None or an integer of at least 2."""
    return None if levels is None else checked_count("levels", levels, least=2)


def _plain(value: Any) -> Any:
    """The number in a 0-d tensor; a bool is no number."""
    value = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    return None if isinstance(value, bool) else value
