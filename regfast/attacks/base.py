"""What runs: an attack or an ensemble of them, on a model and images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from typing_extensions import Self

from regfast.attacks.classifier import Edge, Model
from regfast.attacks.evaluate import evaluate
from regfast.attacks.norms import Norm
from regfast.attacks.prepared import PreparedModel
from regfast.attacks.progress import Watcher
from regfast.attacks.result import AttackResult
from regfast.attacks.rules import Eps, Rules
from regfast.registry import Configured

__all__ = ["Attack", "AttackResult", "Runnable"]


class Runnable(Configured, ABC):
    """What can be run: an attack, or an ensemble of them. Subclasses say their `stages`.

    Attributes:
        name: what `AttackResult.stage` says of samples it broke; of an ensemble, its version.
        norm: the perturbation's norm, an object of norms.py.
        eps: radius of the ball; None for attacks that look for the nearest adversarial point.
    """

    name: str = ""
    norm: Norm
    eps: Eps | None

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
        progress: bool | Watcher = False,
        sample_ids: Tensor | None = None,
        targets: Tensor | None = None,
        clean_logits: Tensor | None = None,
        precision: str = "float32",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002
        cuda_graphs: bool | None = False,
        bounds: tuple[Edge, Edge] | None = None,
    ) -> AttackResult:
        """Attack `model` on the images it classifies correctly.

        Args:
            model: any callable from images in [0, 1] to logits (B, K), or to a dict or object with `logits`. Modules
                are attacked in eval mode; their parameters get no gradients, their flags are as before afterwards;
                while it lasts, attacks on the same module from other threads wait. A `PreparedModel` saves preparing
                and checking it again; the last five options are then its own.
            images: (N, C, H, W) float in [0, 1], or any other shape (N, …) that the model takes; they stay where they
                are, only lanes go to the model's device, as float32. Up to 1e-6 outside are clamped.
            labels: (N,) int64.
            seed: with the sample ids it decides every random draw.
            lanes: samples attacked at the same time; chosen from what is free by default. The result does not depend
                on it (beyond rounding that depends on the batch inside the model).
            progress: show a bar (outside a terminal a line every half minute), or tell a `Watcher`.
            sample_ids: (N,) int64 that key the draws; arange(N) by default.
            targets: (N,) or (N, T) int64 classes to reach, none of them the label; success is then reaching one.
            clean_logits: (N, K) float32 logits of `images` by `model`, where they are known: saves a forward pass.
            precision: "float32", or "bf16": search in bfloat16, every success confirmed by the float32 model.
            channels_last: let the search model compute channels last.
            compile: pass the search model through `torch.compile`.
            cuda_graphs: on a GPU, record whole steps as CUDA graphs: for models that do the same work for every batch.
                True: raise where that can't be; None: go on without there, with a warning.
            bounds: (low, high) of the images, numbers or one per channel, for models that take no images in [0, 1]. eps
                stays a share of that range: 8/255 is 8 of 255 levels, whatever the normalization.

        Raises:
            ValueError, TypeError, IndexError: for images, labels, ids or targets of the wrong shape, type or range, and
                a model that gives no logits.
        """
        return evaluate(
            self.stages(), model, images, labels, seed=seed, lanes=lanes, progress=progress, sample_ids=sample_ids,
            targets=targets, clean_logits=clean_logits, precision=precision, channels_last=channels_last,
            compile=compile, cuda_graphs=cuda_graphs, bounds=bounds,
        )  # fmt: skip

    def __call__(self, model: Model | PreparedModel, images: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """`run(...).images`: adversarial images (N, C, H, W)."""
        return self.run(model, images, labels, **options).images

    def at(self, eps: Eps) -> Self:
        """The same attack at another radius."""
        return type(self)(**{**self._options, "eps": eps})


class Attack(Rules, Runnable):
    """One attack: subclass it and fill in the rules (rules.py)."""

    def stages(self) -> Sequence[Attack]:
        """Itself alone."""
        return [self]
