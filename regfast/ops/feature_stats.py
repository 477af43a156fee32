"""RMS of features and their cosines to class centers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["FeatureStats", "feature_stats"]


class FeatureStats(NamedTuple):
    """Per-sample geometry of features: (B,) float32 (float64 for float64 features)."""

    rms: Tensor
    """`‖v‖ / sqrt(d)`."""
    cosine: Tensor
    """To the center of the label; 0 where a norm is 0, NaN where the label is ignored."""
    cosine_predicted: Tensor
    """To the center of the predicted class; NaN without predictions."""


def feature_stats(
    features: Tensor, centers: Tensor, labels: Tensor, predictions: Tensor | None = None, *, ignore_index: int = -100
) -> FeatureStats:
    """RMS and cosines of every feature row, in one pass.

    Differentiable in `features`: `∂rms/∂v = v / (d · rms)`, `∂cos/∂v = (c/‖c‖ - cos · v/‖v‖) / ‖v‖`, 0 where a norm is
    0 (or the row is ignored). Sums in float32 (float64 for float64).

    Args:
        features: (B, d) floating, any strides.
        centers: (K, d) floating, constants (no gradient).
        labels: (B,) int64.
        predictions: (B,) int64 in [0, K).
        ignore_index: rows with this label have a NaN cosine.

    Raises:
        IndexError: labels or predictions out of range, on CPU in eager mode; elsewhere those cosines are NaN.
    """
    run = find("feature_stats", "feature_stats", features)
    stats: FeatureStats = run(features, centers, labels, predictions, ignore_index=ignore_index)
    if predictions is None:  # backends leave it at None: there was nothing to compute
        stats = FeatureStats(stats.rms, stats.cosine, torch.full_like(stats.rms, torch.nan))
    return stats
