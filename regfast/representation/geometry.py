"""Magnitude and direction of features: RMS, cosine to the class centers, and both inside the span of the head."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regfast.checks import checked, classes, flags, floats, optional
from regfast.functional import feature_stats
from regfast.representation.centers import ClassCenters, of_centers
from regfast.representation.span import CLASSIFIED, row_space


class Geometry(NamedTuple):
    """Per-sample geometry, all (B,) float64. In-span: after projection on the row space of the centered head."""

    rms: Tensor  # ‖v‖ / sqrt(d)
    rms_in_span: Tensor  # ‖Pv‖ / sqrt(d): the same divisor, so that the two compare
    cosine: Tensor  # to the center of the label
    cosine_predicted: Tensor  # to the center of the predicted class
    cosine_in_span: Tensor  # of Pv to the center of the label
    share_in_span: Tensor  # ‖Pv‖ / ‖v‖, so that cosine = cosine_in_span · share_in_span


@checked(
    **CLASSIFIED,
    centers=of_centers(floats("K", "d")),
    predictions=optional(classes("B", "K")),
)
def feature_geometry(
    features: Tensor,
    weight: Tensor,
    centers: ClassCenters | Tensor,
    labels: Tensor,
    predictions: Tensor | None = None,
    *,
    bias: Tensor | None = None,
) -> Geometry:
    """RMS and cosines of features, raw and in the span of the centered head.

    Only the part in that span moves the softmax; the rest dilutes the raw cosine.

    Args:
        features: (B, d) floating.
        weight: (K, d) head weights; ``bias`` (K,) is needed only to predict.
        centers: `ClassCenters`, or their points (K, d).
        labels: (B,) int64 in 0 … K-1.
        predictions: (B,) int64; default the arg max of the head's logits.

    A feature (or center) of length 0 has no direction: its cosines and its share are 0, as in `feature_stats`.

    Raises:
        ValueError: shapes that do not fit together.
        IndexError: a label or prediction outside 0 … K-1.

    >>> found = feature_geometry(torch.tensor([[3.0, 4.0, 0.0]]), torch.eye(3), torch.eye(3), torch.tensor([1]))
    >>> found.cosine
    tensor([0.8000], dtype=torch.float64)
    """
    points = centers.points if isinstance(centers, ClassCenters) else centers
    v = features.detach().double()
    points = points.to(v)
    if predictions is None:
        logits = v @ weight.detach().to(v).T
        predictions = (logits if bias is None else logits + bias.detach().to(v)).argmax(dim=1)
    basis = row_space(weight).to(v).T
    inside, points_inside = v @ basis, points @ basis
    length, length_inside = v.norm(dim=1), inside.norm(dim=1)
    raw = feature_stats(v, points, labels, predictions)
    return Geometry(
        rms=raw.rms,
        rms_in_span=length_inside / features.shape[1] ** 0.5,
        cosine=raw.cosine,
        cosine_predicted=raw.cosine_predicted,
        cosine_in_span=cosine(inside, points_inside[labels]),
        share_in_span=(length_inside / torch.where(length == 0, 1, length)).clamp(max=1),
    )


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Row-wise cosine of (B, d) tensors, within [-1, 1]; 0 where either row has length 0."""
    norms = first.norm(dim=1) * second.norm(dim=1)
    return ((first * second).sum(dim=1) / torch.where(norms == 0, 1, norms)).clamp(-1, 1)


@checked(features=floats("B", "d", least=(1,)), correct=flags("B"))
def default_radius(features: Tensor, correct: Tensor) -> float:
    """Radius of the class centers of a model: the median norm of its correctly classified features, or of all.

    All count where none is correct, as before training.

    Args:
        features: (B, d) floating. correct: (B,) bool.

    Raises:
        ValueError: no feature at all, or shapes that do not fit.
    """
    norms = features.detach()[correct if bool(correct.any()) else ~correct].double().norm(dim=1)
    # NumPy's median: torch's is the lower of the middle two for an even count, and torch.quantile stops at 2²⁴ values.
    return float(np.median(norms.cpu().numpy()))
