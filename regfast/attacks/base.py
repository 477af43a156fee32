"""The contract of an attack: what it states, and what it gives back.

An attack is a per-sample state machine. It says what a lane's state is (`state`), how a run starts (`start`), what it
asks of the model (`asks`, `objective`), when a point counts (`hit`), how it moves (`advance`) and how long a run lasts
(`steps`). The engine (engine.py) holds the only loop: it keeps the lanes full, asks the model, and confirms successes.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from regfast.attacks.lanes import Answer, Lanes, Nothing, Rows
from regfast.attacks.losses import Objective, objective, reach
from regfast.attacks.norms import Norm

if TYPE_CHECKING:
    from regfast.attacks.prepared import PreparedModel

Model = Callable[[Tensor], Tensor]


@dataclass
class AttackResult:
    """What an attack did to N samples, in the order they came; tensors on the device of the images.

    Attributes:
        images: (N, C, H, W) the adversarial image where `success`; elsewhere the last point asked, or the clean image
            (from ensembles, minimal-norm attacks, and where `targets` were given).
        success: (N,) bool: was right, now wrong (reached the target, where `targets` were given).
        robust: (N,) bool: right on the clean image and still right.
        clean: (N,) bool: right on the clean image.
        prediction: (N,) int64 class of `images` by the float32 model as given.
        clean_prediction: (N,) int64 class of the clean images.
        stage: per sample "clean" (wrong from the start), the attack that broke it, or "" (robust).
        gradients: (N,) int64 input gradients spent on the sample.
        queries: (N,) int64 forward passes spent on it, those of gradients and confirmations included.
        distance: (N,) float32 norm of the perturbation in `images`.
        loss: (N,) float32 the attack's objective at `images`; NaN where it was not asked.
    """

    images: Tensor
    success: Tensor
    robust: Tensor
    clean: Tensor
    prediction: Tensor
    clean_prediction: Tensor
    stage: list[str]
    gradients: Tensor
    queries: Tensor
    distance: Tensor
    loss: Tensor

    @property
    def robust_accuracy(self) -> float:
        """Share of all samples still classified correctly."""
        return self.robust.double().mean().item()

    @property
    def success_rate(self) -> float:
        """Share of the correctly classified samples that the attack flips (ASR); NaN if none was right."""
        return (self.success.sum() / self.clean.sum()).item()


class Plan(NamedTuple):
    """Targets (M, R) int64, one a run, and what finding them cost per sample."""

    targets: Tensor
    gradients: int = 0
    queries: int = 0


class Runnable(ABC):
    """What can be run: an attack, or an ensemble of them. Subclasses say their `stages`.

    Attributes:
        name: what `AttackResult.stage` says of samples it broke; of an ensemble, its version.
        norm: the perturbation's norm, an object of norms.py.
        eps: radius of the ball; None for attacks that look for the nearest adversarial point.
    """

    name: str = ""
    norm: Norm
    eps: float | None
    _options: dict[str, Any]

    @abstractmethod
    def stages(self) -> Sequence[Attack]:
        """The attacks that the samples go through, survivors only."""

    def run(
        self,
        model: Model | PreparedModel,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int = 0,
        lanes: int | None = None,
        progress: bool = False,
        sample_ids: Tensor | None = None,
        targets: Tensor | None = None,
        clean_logits: Tensor | None = None,
        precision: str = "float32",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
    ) -> AttackResult:
        """Attack `model` on the images it classifies correctly.

        Args:
            model: any callable from images in [0, 1] to logits (B, K). Modules are attacked in eval mode; their
                parameters get no gradients, their flags are as before afterwards. A `PreparedModel` saves preparing
                and checking it again; the last three options are then its own.
            images: (N, C, H, W) float in [0, 1]; they stay where they are, only lanes go to the model's device.
            labels: (N,) int64.
            seed: with the sample ids it decides every random draw.
            lanes: samples attacked at the same time; chosen from what is free by default. The result does not depend
                on it (beyond rounding that depends on the batch inside the model).
            progress: show a bar.
            sample_ids: (N,) int64 that key the draws; arange(N) by default.
            targets: (N,) or (N, R) int64 classes to reach, one run each; success is then reaching one.
            clean_logits: (N, K) float32 logits of `images` by `model`, where they are known: saves a forward pass.
            precision: "float32", or "bf16": search in bfloat16, every success confirmed by the float32 model.
            channels_last: let the search model compute channels last.
            compile: pass the search model through `torch.compile`.

        Raises:
            ValueError, TypeError, IndexError: for images, labels or ids of the wrong shape, type or range.
        """
        from regfast.attacks.evaluate import evaluate  # it drives attacks: it imports this file

        return evaluate(
            self.stages(), model, images, labels, seed=seed, lanes=lanes, progress=progress, sample_ids=sample_ids,
            targets=targets, clean_logits=clean_logits, precision=precision, channels_last=channels_last,
            compile=compile,
        )  # fmt: skip

    def __call__(self, model: Model | PreparedModel, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """`run(...).images`: adversarial images (N, C, H, W)."""
        return self.run(model, images, labels, **options).images

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        attack = super().__new__(cls)
        call = inspect.signature(cls.__init__).bind(attack, *args, **kwargs)
        call.apply_defaults()
        attack._options = {name: value for name, value in call.arguments.items() if name != "self"}
        return attack

    @property
    def options(self) -> dict[str, Any]:
        """What it was constructed with, defaults filled in: `type(attack)(**attack.options)` is the same attack."""
        return dict(self._options)

    def at(self, eps: float) -> Self:
        """The same attack at another radius."""
        return type(self)(**{**self._options, "eps": eps})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._options.items())})"


class Attack(Runnable):
    """One attack, as rules for a lane; running it is the same for all.

    Attributes:
        asks: "gradient" of the objective, "forward" only, or "jacobian" (gradients of all logits).
        samples: gradients averaged at each point (EOT), for models that answer at random.
        steps: moves of one run: the model is asked at steps + 1 points.
        closest: keep the nearest adversarial point of a sample instead of leaving at the first; with `eps`, leave once
            it is inside.
        loss: name of the objective, see losses.py.
    """

    asks: Literal["gradient", "forward", "jacobian"] = "gradient"
    samples: int = 1
    closest: bool = False
    loss: str = "ce"
    steps: int
    runs: int = 1

    def stages(self) -> Sequence[Attack]:
        """Itself alone."""
        return [self]

    def plan(self, model: Model, images: Tensor, labels: Tensor, logits: Tensor) -> Plan | None:
        """The targets of every sample's runs, or None: no targets, `self.runs` runs.

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
        """Begin a run (a sample, restart or target) in the lanes `fresh` (M,) int64: set their `lanes.point`."""

    @abstractmethod
    def advance(self, lanes: Lanes, state: Any, answer: Answer) -> None:
        """Answer to `lanes.point` → the next `lanes.point` (a new tensor), for all lanes.

        Must not wait for the device: no `.item()`, no boolean indexing. `lanes.step` is the number of moves made
        before this one in the run.
        """

    def objective(self, lanes: Lanes, state: Any, logits: Tensor) -> Objective:
        """What the attack raises: per-lane loss, prediction, and gradient on the logits (S, K)."""
        if lanes.reach:
            return reach(self.loss, logits, lanes.target)
        name = f"{self.loss}-targeted" if lanes.targeted else self.loss
        return objective(name, logits, lanes.label, lanes.target)

    def hit(self, lanes: Lanes, state: Any, answer: Answer) -> Tensor:
        """(S,) bool: the present point may count, if adversarial. The engine adds the rest (see `closest`)."""
        return torch.ones_like(lanes.hit)


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
