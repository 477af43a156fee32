"""RMS and cosines of features by the native extension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regfast.ops.feature_stats import FeatureStats

_geometry = torch.ops.regfast.feature_stats.default


def feature_stats(
    features: Tensor, centers: Tensor, labels: Tensor, predictions: Tensor | None, *, ignore_index: int
) -> FeatureStats:
    """See `regfast.ops.feature_stats.feature_stats`."""
    rows: list[Any] = [*_geometry(features, centers, labels, predictions, ignore_index).unbind(), None]
    return FeatureStats(*rows[:3])
