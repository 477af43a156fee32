"""Metrics for a training or validation loop, as torchmetrics has them: they accumulate batches and sync under DDP.

Needs the `metrics` extra (torchmetrics). Each is a sum over samples: the value is exact for any batch size and number
of ranks.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from regfast.functional import feature_stats

with contextlib.suppress(ImportError):  # torchmetrics imports torchvision where it is installed: ours makes that work
    from regfast.models import _torchvision  # noqa: F401

from torchmetrics import Metric

__all__ = ["AttackSuccessRate", "CalibrationError", "CenterCosine", "FeatureRMS", "RobustAccuracy"]


class _Share(Metric):
    """A share of samples: `hits` of `total`."""

    is_differentiable = False
    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("hits", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The share in [0, 1] as a float64 scalar; NaN before the first sample."""
        return self.hits / self.total


class RobustAccuracy(_Share):
    """Share of all samples still classified correctly after the attack, in [0, 1]."""

    higher_is_better = True

    def update(self, adversarial_logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) of the attacked images, labels (B,) int64."""
        _check_logits(adversarial_logits, labels)
        self.hits += (adversarial_logits.argmax(1) == labels).sum()
        self.total += len(labels)


class AttackSuccessRate(_Share):
    """Share of the correctly classified samples that the attack flips (ASR), in [0, 1]; NaN while none was correct."""

    higher_is_better = False

    def update(self, clean_logits: Tensor, adversarial_logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) of the clean and of the attacked images, labels (B,) int64."""
        _check_logits(clean_logits, labels)
        _check_logits(adversarial_logits, labels)
        correct = clean_logits.argmax(1) == labels
        self.hits += (correct & (adversarial_logits.argmax(1) != labels)).sum()
        self.total += correct.sum()


class FeatureRMS(_Share):
    """Mean of ‖v‖ / sqrt(d) over samples: the magnitude of the penultimate features."""

    def update(self, features: Tensor) -> None:
        """Add a batch of features (B, d), floating point."""
        if features.ndim != 2:
            raise ValueError(f"features must have shape (B, d), got {tuple(features.shape)}")
        self.hits += features.float().square().mean(1).sqrt().double().sum()
        self.total += len(features)


class CenterCosine(_Share):
    """Mean cosine of a sample's feature to the center of its class.

    Args:
        centers: (K, d) class centers, `regfast.representation.class_centers(...).points`.
    """

    centers: Tensor

    def __init__(self, centers: Tensor, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("centers", centers.detach().clone())

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (B, d), labels (B,) int64."""
        self.hits += feature_stats(features, self.centers.to(features), labels).cosine.double().sum()
        self.total += len(labels)


class CalibrationError(Metric):
    """Expected calibration error (ECE) over equal-width bins of the confidence; exactly 1 falls in the last bin.

    Args:
        bins: number of bins, at least 1 (Guo et al. 2017 use 15).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    count: Tensor
    confidence: Tensor
    correct: Tensor

    def __init__(self, bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        self.bins = bins
        for name in ("count", "confidence", "correct"):
            self.add_state(name, torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K), labels (B,) int64."""
        _check_logits(logits, labels)
        confidence, prediction = logits.double().softmax(1).max(1)
        placed = (confidence * self.bins).long().clamp(max=self.bins - 1)
        self.count.index_add_(0, placed, torch.ones_like(confidence))
        self.confidence.index_add_(0, placed, confidence)
        self.correct.index_add_(0, placed, (prediction == labels).double())

    def compute(self) -> Tensor:
        """ECE in [0, 1] as a float64 scalar; NaN before the first sample."""
        return (self.confidence - self.correct).abs().sum() / self.count.sum()


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"expected logits (B, K) and labels (B,), got {tuple(logits.shape)} and {tuple(labels.shape)}")
