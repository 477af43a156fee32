"""Temperature scaling and feature scaling, each fitted on a held-out split by its convex likelihood."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regfast.calibration._arrays import as_array, logits_and_labels, matrix_and_labels
from regfast.checks import array, checked, floats, number, optional, whole

Array = NDArray[Any]

# Returned where no temperature is best: every sample is right (T → 0), or the logits say nothing (T → ∞).
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 100.0
_FEW = 2048  # samples that say about where to begin
_BLOCK = 1 << 15  # float64 entries that a thread's cache holds a few times


@checked(logits=array("n", "K"), labels=array("n"), ignore_index=whole(-(2**63)))
def fit_temperature(logits: Tensor | Array, labels: Tensor | Array, *, ignore_index: int = -100) -> float:
    """Temperature T that minimizes the negative log-likelihood of softmax(logits / T) (Guo et al. 2017, §4.2).

    Args:
        logits: (n, K) of a held-out split, finite.
        labels: (n,) int, in 0 … K-1.
        ignore_index: samples with this label are left out.

    The likelihood is convex in 1/T; a safeguarded Newton iteration in float64 finds the minimizer to a relative 1e-10,
    whatever the scale of the logits. Where there is none, because every sample is right (T → 0) or the true logits are
    on average no larger than the mean ones (T → ∞), 0.01 or 100 is returned, with a RuntimeWarning.

    Raises:
        ValueError: shapes that differ, no samples, one class, logits that are not finite, or are probabilities.
        IndexError: a label outside 0 … K-1.

    >>> held_out, labels = torch.randn(500, 10), torch.randint(10, (500,))
    >>> temperature = fit_temperature(3 * (held_out + 2 * torch.eye(10)[labels]), labels)
    """
    table, classes = logits_and_labels(logits, labels, ignore_index)
    return 1 / _fit_scale(table, np.zeros(table.shape[1]), classes, "temperature 1/s")


@checked(
    weight=array("K", "d", finite=True),
    bias=optional(array("K", finite=True)),
    features=array("n", "d"),
    labels=array("n"),
    ignore_index=whole(-(2**63)),
)
def fit_feature_scale(
    features: Tensor | Array,
    weight: Tensor | Array,
    bias: Tensor | Array | None,
    labels: Tensor | Array,
    *,
    ignore_index: int = -100,
) -> float:
    """Scale s that minimizes the negative log-likelihood of softmax(W(s·v) + b); s = 1/T when b is constant.

    Args:
        features: (n, d). weight: (K, d). bias: (K,) or None. labels: (n,) int.

    Method, `ignore_index` and errors as `fit_temperature`.
    """
    head = as_array(weight).astype(np.float64)
    offset = np.zeros(len(head)) if bias is None else as_array(bias).astype(np.float64)
    logits = as_array(features).astype(np.float64) @ head.T
    table, classes = matrix_and_labels(logits, labels, "features @ weight.T", ignore_index)
    return _fit_scale(table, offset, classes, "feature scale s", "features")


@checked(logits=floats(any_shape=True), temperature=number(0, above=True))
def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by a temperature, any shape. ValueError unless 0 < temperature < ∞."""
    return logits / temperature


@checked(weight=floats("K", "d"), bias=optional(floats("K")), features=floats("n", "d"), scale=number(0, above=True))
def scale_features(features: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Logits (n, K) of features scaled by s > 0: s·(W v) + b. Equal to temperature 1/s up to (1 - s)·b."""
    if weight.dtype != features.dtype or (bias is not None and bias.dtype != features.dtype):
        raise ValueError(f"weight and bias must be {features.dtype} as features are, got {weight.dtype}")
    logits = scale * (features @ weight.T)
    return logits if bias is None else logits + bias


def _fit_scale(slope: Array, offset: Array, labels: Array, name: str, source: str = "logits") -> float:
    """Minimizer over s > 0 of the mean of lse(s·slope + offset) - (s·slope + offset)_label, which is convex."""
    if not np.isfinite(slope).all():
        raise ValueError(f"{source} must be finite: a temperature fitted to NaN or infinity means nothing")
    rows, true = torch.from_numpy(slope), torch.from_numpy(slope[np.arange(len(labels)), labels])
    bias = torch.from_numpy(offset)
    bound = _no_minimum(rows, bias, true)
    if bound is not None:
        message = f"{name}: the likelihood has no minimum on this split, s = {bound:g} returned"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
        return bound
    start, every = 1.0, len(rows) // _FEW
    if every > 1:
        few, labeled = rows[::every].contiguous(), true[::every]
        start = 1.0 if _no_minimum(few, bias, labeled) else _root(few, bias, labeled, start, 0.03)
    return _root(rows, bias, true, start, 1e-7)


def _no_minimum(rows: Tensor, bias: Tensor, true: Tensor) -> float | None:
    """The bound to return where the loss falls for ever as s grows, or from s = 0 on."""
    if bool((rows.amax(1) <= true).all()):
        return 1 / MIN_TEMPERATURE
    return 1 / MAX_TEMPERATURE if _derivatives(rows, bias, true, 0.0)[0] >= 0 else None


def _root(rows: Tensor, bias: Tensor, true: Tensor, s: float, tolerance: float) -> float:
    """Where the first derivative, which grows in s, is 0: Newton inside a bracket, to a last step of `tolerance`."""
    low, high = 0.0, math.inf
    for _ in range(200):
        first, second = _derivatives(rows, bias, true, s)
        low, high = (low, s) if first > 0 else (s, high)
        following = s - first / second if second > 0 else math.inf
        # Far from the root Newton is not to be trusted: tenfold steps at most, and else half of the bracket in log s.
        near = max(low, s / 10) <= following <= min(high, s * 10)
        if near and abs(following - s) <= tolerance * s:  # quadratic: the error left is of the order of its square
            return following
        if not near:
            following = math.sqrt(low * high) if low > 0 and high < math.inf else s * (0.1 if first > 0 else 10)
        s = following
    return s


def _derivatives(rows: Tensor, bias: Tensor, true: Tensor, s: float) -> tuple[float, float]:
    """First and second derivative in s of the mean loss, over blocks of rows that stay in the cache."""
    first, second = rows.new_zeros(()), rows.new_zeros(())
    step = max(1, _BLOCK * torch.get_num_threads() // rows.shape[1])
    for block, label in zip(rows.split(step), true.split(step), strict=True):
        p = torch.add(bias, block, alpha=s)
        p = p.sub_(p.amax(1, keepdim=True)).exp_()
        total = p.sum(1)
        expected = torch.linalg.vecdot(p, block) / total
        away = block - expected[:, None]
        first += (expected - label).sum()
        second += (torch.linalg.vecdot(p, away.square_()) / total).sum()
    return float(first) / len(rows), float(second) / len(rows)
