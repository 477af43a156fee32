"""What a regularizer is: it may change the batch, and it may define the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regfast.functional import Target, soft_cross_entropy_stats
from regfast.models import SplitClassifier
from regfast.ops.soft_cross_entropy import SampleStats
from regfast.registry import Configured, Registry

__all__ = ["REGULARIZERS", "Context", "Regularizer", "checked_range", "register"]


@dataclass
class Context:
    """What of the training a regularizer may look at; the loop keeps it up to date.

    `centers` (K, d) are the class centers of the head after the last epoch, constants. `images` is the batch as the
    model saw it, on the model's device; only `loss` may read it.
    """

    model: SplitClassifier
    centers: Tensor
    generator: torch.Generator
    epoch: int = 1
    epochs: int = 1
    images: Tensor | None = None
    stats: SampleStats | None = None

    @property
    def head(self) -> nn.Linear:
        """The last linear layer, d → K."""
        return self.model.head

    @property
    def num_classes(self) -> int:
        """K."""
        return self.model.num_classes

    def cross_entropy(
        self, logits: Tensor, target: Target, features: Tensor, **options: Any
    ) -> tuple[Tensor, SampleStats]:
        """`regfast.soft_cross_entropy_stats` with the present centers; the curves read its RMS and cosine from here."""
        loss, self.stats = soft_cross_entropy_stats(logits, target, features, self.centers, **options)
        return loss, self.stats


class Regularizer(Configured):
    """Labels as they are and cross-entropy; subclasses override `batch`, `loss` or both.

    The constructor's arguments are the regularizer's options: numbers and text, which go into `config.json`.
    Everything random comes from `context.generator`.

    Attributes:
        label: its name for readers, in figures and tables; None: the name that it is registered under.
        proper: the label is a proper name, which keeps its capital inside a sentence.
        color, marker: of its lines in figures, as matplotlib writes them; None: free ones.
    """

    label: str | None = None
    proper: bool = False
    color: str | None = None
    marker: str | None = None

    def batch(self, images: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Target]:
        """Images (B, C, H, W) in [0, 1] and labels (B,) int64 → what the model is trained on, and its target."""
        return images, labels

    def loss(self, logits: Tensor, target: Target, features: Tensor, context: Context) -> Tensor:
        """The 0-d loss of logits (B, K) of features (B, d), with the target that `batch` gave."""
        return context.cross_entropy(logits, target, features)[0]


REGULARIZERS: Registry[Regularizer] = Registry("regularizer", Regularizer)
register = REGULARIZERS.register


def checked_range(name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False) -> float:
    """`value` if it is a number in [low, high], or (low, high]; infinity is in no range."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (open_low and value == low):
        bounds = f"{'(' if open_low else '['}{low:g}, {high:g}{']' if math.isfinite(high) else ')'}"
        raise ValueError(f"{name} must be a number in {bounds}, got {value!r}")
    return float(value)
