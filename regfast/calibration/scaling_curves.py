"""ECE and likelihood over the scale, of features and of logits, and the share of predictions that change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regfast.calibration.bins import expected_calibration_error
from regfast.calibration.scaling import scale_features
from regfast.calibration.scores import negative_log_likelihood
from regfast.checks import checked, classes, floats, number, optional, several, whole

Array = NDArray[Any]


class ScalingCurve(NamedTuple):
    """Figures over a scale, all (S,) float64."""

    scale: Array
    ece: Array
    nll: Array
    changed: Array  # share of predictions that differ from those at scale 1


class ScalingCurves(NamedTuple):
    """One curve for each way of scaling."""

    temperature: ScalingCurve  # s·(Wv + b): temperature 1/s, which changes no prediction
    feature: ScalingCurve  # W(s·v) + b: differs from it by (1 - s)·b


@checked(
    weight=floats("K", "d", finite=True),
    bias=optional(floats("K", finite=True)),
    features=floats("n", "d"),
    labels=classes("n"),
    scales=several(number(0, above=True)),
    bins=whole(1),
    ignore_index=whole(-(2**63)),
)
def scaling_curves(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    scales: Sequence[float],
    *,
    bins: int = 15,
    ignore_index: int = -100,
) -> ScalingCurves:
    """ECE, negative log-likelihood and changed predictions of scaled logits and of scaled features.

    Args:
        features: (n, d). weight: (K, d). bias: (K,) or None. labels: (n,) int64.
        scales: any number of values > 0. bins: of the ECE. ignore_index: samples with this label are left out.

    Raises:
        ValueError: no scales, a scale that is not positive, shapes that do not fit, NaN.
        IndexError: a label out of range.
    """
    known = labels != ignore_index
    features, labels = features[known], labels[known]
    if not bool(features.isfinite().all()):
        raise ValueError("features must be finite, got NaN or infinity among those that are not ignored")
    v, head = features.detach().double(), weight.detach().double()
    offset = None if bias is None else bias.detach().double()
    plain = scale_features(v, head, offset, 1.0)
    prediction = plain.argmax(dim=1)

    def curve(logits_at: Any) -> ScalingCurve:
        rows = []
        for scale in scales:
            logits = logits_at(scale)
            confidence, predicted = torch.softmax(logits, dim=1).max(dim=1)
            rows.append(
                (
                    float(scale),
                    expected_calibration_error(confidence.clamp(max=1), predicted == labels, bins),
                    negative_log_likelihood(logits, labels, ignore_index=ignore_index),
                    float((predicted != prediction).double().mean()),
                )
            )
        return ScalingCurve(*np.array(rows).T)

    return ScalingCurves(curve(lambda s: s * plain), curve(lambda s: scale_features(v, head, offset, s)))
