"""RMS of features and their cosines to class centers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regfast.ops.feature_stats import FeatureStats
from regfast.ops.reference.rows import in_range, upcast


def feature_stats(
    features: Tensor, centers: Tensor, labels: Tensor, predictions: Tensor | None = None, *, ignore_index: int = -100
) -> FeatureStats:
    """See `regfast.ops.feature_stats`."""
    judged = in_range(labels, len(centers), "labels", ignore_index) & (labels != ignore_index)
    rms, cosine, _ = geometry(features, centers, torch.where(judged, labels, 0), judged, None)
    cosine_predicted: Any = None
    if predictions is not None:
        valid = in_range(predictions, len(centers), "predictions")
        cosine_predicted = geometry(features, centers, torch.where(valid, predictions, 0), valid, None)[1]
    return FeatureStats(rms, cosine, cosine_predicted)


def geometry(
    features: Tensor, centers: Tensor | None, labels: Tensor, judged: Tensor, predictions: Tensor | None
) -> tuple[Tensor, Any, Any]:
    """rms, cosine to centers[labels] (NaN where not `judged`), to centers[predictions]; None for want of input."""
    v = upcast(features)
    norm = torch.linalg.vector_norm(v, dim=1)  # its gradient at 0 is 0
    rms = norm / v.shape[1] ** 0.5
    if centers is None:
        return rms, None, None
    centers = centers.detach().to(v.dtype)
    cosine = torch.where(judged, _cosine(v, norm, centers[labels]), torch.nan)
    return rms, cosine, None if predictions is None else _cosine(v, norm, centers[predictions])


def _cosine(v: Tensor, norm: Tensor, c: Tensor) -> Tensor:
    length = norm * torch.linalg.vector_norm(c, dim=1)
    nothing = length == 0
    return torch.where(nothing, 0.0, (v * c).sum(1) / torch.where(nothing, 1.0, length))
