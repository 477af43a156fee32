"""Temperature scaling and feature scaling, each fitted on a held-out split by its convex likelihood."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regfast.calibration._arrays import as_array, matrix_and_labels

Array = NDArray[Any]

# Temperatures outside are no calibration any more: the split was separable (T → 0) or carried no information (T → ∞).
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 100.0


def fit_temperature(logits: Tensor | Array, labels: Tensor | Array) -> float:
    """Temperature T that minimises the negative log-likelihood of softmax(logits / T) (Guo et al. 2017, §4.2).

    Args:
        logits: (n, K) of a held-out split, finite.
        labels: (n,) int, in 0 … K-1.

    The likelihood is convex in 1/T; a safeguarded Newton iteration finds the minimiser to a relative 1e-10. Where it
    lies outside [0.01, 100] (every sample right by a margin; no information at all) the bound is returned, with a
    RuntimeWarning.

    Raises:
        ValueError: shapes that differ, no samples, logits that are not finite.
        IndexError: a label outside 0 … K-1.
    """
    table, classes = matrix_and_labels(logits, labels, "logits")
    return 1 / _fit_scale(table, np.zeros(table.shape[1]), classes, "temperature 1/s")


def fit_feature_scale(
    features: Tensor | Array, weight: Tensor | Array, bias: Tensor | Array | None, labels: Tensor | Array
) -> float:
    """Scale s that minimises the negative log-likelihood of softmax(W(s·v) + b); s = 1/T when b is constant.

    Args:
        features: (n, d). weight: (K, d). bias: (K,) or None. labels: (n,) int.

    Range, method and errors as `fit_temperature`; s lies in [0.01, 100].
    """
    head, offset = _head(weight, bias)
    table, classes = matrix_and_labels(as_array(features).astype(np.float64) @ head.T, labels, "features @ weight.T")
    return _fit_scale(table, offset, classes, "feature scale s")


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by a temperature, any shape. ValueError unless 0 < temperature < ∞."""
    _check_positive(temperature, "temperature")
    return logits / temperature


def scale_features(features: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Logits (n, K) of features scaled by s > 0: s·(W v) + b. Equal to temperature 1/s up to (1 - s)·b."""
    _check_positive(scale, "scale")
    logits = scale * (features @ weight.T)
    return logits if bias is None else logits + bias


def _fit_scale(slope: Array, offset: Array, labels: Array, name: str) -> float:
    """Minimiser over s of the mean of lse(s·slope + offset) - (s·slope + offset)_label, which is convex."""
    if not np.isfinite(slope).all():
        raise ValueError("logits must be finite: a temperature fitted to NaN or infinity means nothing")
    true = slope[np.arange(len(labels)), labels]

    def derivatives(s: float) -> tuple[float, float]:
        z = s * slope + offset
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        expected = (p * slope).sum(axis=1)
        spread = (p * (slope - expected[:, None]) ** 2).sum(axis=1)
        return float((expected - true).mean()), float(spread.mean())

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    for bound, outside in ((low, derivatives(low)[0] >= 0), (high, derivatives(high)[0] <= 0)):
        if outside:
            message = f"{name}: no minimum inside [{low:g}, {high:g}] on this split, s = {bound:g} returned"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return bound
    s = 1.0
    for _ in range(200):
        first, second = derivatives(s)
        if first > 0:
            high = s
        else:
            low = s
        step = s - first / second if second > 0 else math.inf
        # Outside the bracket Newton is not to be trusted: halve the bracket in log s.
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - s) <= 1e-10 * s:
            return following
        s = following
    return s


def _head(weight: Tensor | Array, bias: Tensor | Array | None) -> tuple[Array, Array]:
    head = as_array(weight).astype(np.float64)
    offset = np.zeros(len(head)) if bias is None else as_array(bias).astype(np.float64)
    if head.ndim != 2 or offset.shape != head.shape[:1]:
        raise ValueError(f"weight must be (K, d) and bias (K,), got {head.shape} and {offset.shape}")
    return head, offset


def _check_positive(value: float, name: str) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
