"""Binned calibration errors (ECE, adaptive and classwise ECE) and the bins of a reliability diagram."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regfast.calibration._arrays import confidence_and_correct, probabilities_and_labels
from regfast.checks import array, checked, number, whole
from regfast.statistics import Interval, Statistic, bootstrap_interval

Array = NDArray[Any]


class ReliabilityBins(NamedTuple):
    """Per-bin figures of a reliability diagram, all (bins,): NaN mean confidence and accuracy where a bin is empty."""

    edges: Array  # (bins + 1,)
    confidence: Array
    accuracy: Array
    counts: Array  # int64


@checked(confidence=array("n"), correct=array("n"), bins=whole(1))
def reliability_bins(confidence: Tensor | Array, correct: Tensor | Array, bins: int = 15) -> ReliabilityBins:
    """Mean confidence, accuracy and count per equal-width bin of [0, 1] (Niculescu-Mizil & Caruana 2005).

    Args:
        confidence: (n,) in [0, 1].
        correct: (n,) bool or 0/1.
        bins: number of bins; bin i is [i/bins, (i+1)/bins), and the last one also holds a confidence of exactly 1.

    Raises:
        ValueError: shapes that differ, no samples, a confidence outside [0, 1] or NaN, bins < 1.

    >>> found = reliability_bins(torch.tensor([0.2, 0.9, 0.8]), torch.tensor([False, True, False]), bins=2)
    >>> found.counts.tolist()
    [1, 2]
    """
    values, right = confidence_and_correct(confidence, correct)
    edges = _edges(bins)
    index = _equal_width(values, edges)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(index, values, bins) / count
        accuracy = np.bincount(index, right, bins) / count
    return ReliabilityBins(edges, mean_confidence, accuracy, count)


@checked(confidence=array("n"), correct=array("n"), bins=whole(1))
def expected_calibration_error(confidence: Tensor | Array, correct: Tensor | Array, bins: int = 15) -> float:
    """ECE (Guo et al. 2017, eq. 3): Σ_bins count/n · |accuracy - mean confidence|, over bins of equal width.

    Arguments and errors as in `reliability_bins`. A confidence of exactly 1 is in the last bin, as defined, and not in
    a bin of its own, where some libraries put it.

    >>> round(expected_calibration_error(torch.tensor([0.9, 0.9, 0.9, 0.9]), torch.tensor([1, 1, 1, 0])), 4)
    0.15
    """
    return float(ece_statistic(bins)(_rows(confidence, correct)[None])[0])


@checked(confidence=array("n"), correct=array("n"), bins=whole(1))
def adaptive_calibration_error(confidence: Tensor | Array, correct: Tensor | Array, bins: int = 15) -> float:
    """Adaptive ECE (Nguyen & O'Connor 2015; Nixon et al. 2019): as ECE, with bins of (nearly) equal count.

    The samples are sorted by confidence and cut into ``bins`` runs whose sizes differ by at most one. Equal confidences
    that a cut would part share their mean correctness: the result does not depend on the order of the samples.
    Errors as in `reliability_bins`.
    """
    return float(adaptive_ece_statistic(bins)(_rows(confidence, correct)[None])[0])


@checked(probabilities=array("n", "K"), labels=array("n"), bins=whole(1), ignore_index=whole(-(2**63)))
def classwise_calibration_error(
    probabilities: Tensor | Array, labels: Tensor | Array, bins: int = 15, *, ignore_index: int = -100
) -> float:
    """Classwise ECE (Kull et al. 2019, eq. 4): the mean over classes of the ECE of that class's probability.

    Args:
        probabilities: (n, K), each row sums to 1.
        labels: (n,) int, in 0 … K-1.
        bins: equal-width bins per class.
        ignore_index: samples with this label are left out.

    Raises:
        ValueError: shapes that differ, no samples, one class, rows that are no probabilities, bins < 1.
        IndexError: a label outside 0 … K-1.
    """
    table, classes = probabilities_and_labels(probabilities, labels, ignore_index)
    return float(classwise_ece_statistic(bins)(np.column_stack([table, classes])[None])[0])


@checked(bins=whole(1))
def ece_statistic(bins: int = 15) -> Statistic:
    """ECE as a statistic for `regfast.statistics`: (R, n, 2) rows of (confidence, correct) → (R,), in one call."""
    edges = _edges(bins)

    def statistic(resampled: Array) -> Array:
        values, right = resampled[..., 0], resampled[..., 1]
        count = len(values)
        index = _equal_width(values.ravel(), edges).reshape(values.shape) + bins * np.arange(count)[:, None]
        sums = np.bincount(index.ravel(), (right - values).ravel(), bins * count).reshape(count, bins)
        return np.abs(sums).sum(axis=1) / values.shape[1]

    return statistic


@checked(bins=whole(1))
def adaptive_ece_statistic(bins: int = 15) -> Statistic:
    """Adaptive ECE as a statistic for `regfast.statistics`: (R, n, 2) rows of (confidence, correct) → (R,)."""

    def statistic(resampled: Array) -> Array:
        count, samples = resampled.shape[:2]
        order = np.argsort(resampled[..., 0], axis=1, kind="stable")
        values, right = (np.take_along_axis(resampled[..., k], order, axis=1) for k in (0, 1))
        new = np.ones(values.shape, dtype=bool)  # where a run of equal confidences begins
        new[:, 1:] = values[:, 1:] != values[:, :-1]
        run = np.cumsum(new.ravel()) - 1
        shared = (np.bincount(run, right.ravel()) / np.bincount(run))[run].reshape(values.shape)
        cumulative = np.concatenate([np.zeros((count, 1)), (shared - values).cumsum(axis=1)], axis=1)
        cuts = -(-np.arange(bins + 1) * samples // bins)  # sample i of the sorted ones is in bin i · bins // samples
        return np.abs(np.diff(cumulative[:, cuts], axis=1)).sum(axis=1) / samples

    return statistic


@checked(bins=whole(1))
def classwise_ece_statistic(bins: int = 15) -> Statistic:
    """Classwise ECE as a statistic for `regfast.statistics`: (R, n, K + 1), probabilities and label → (R,)."""
    edges = _edges(bins)

    def statistic(resampled: Array) -> Array:
        table, labels = resampled[..., :-1], resampled[..., -1]
        count, samples, classes = table.shape
        gap = (labels[..., None] == np.arange(classes)) - table
        place = bins * (np.arange(count)[:, None, None] * classes + np.arange(classes))
        index = _equal_width(table.ravel(), edges).reshape(table.shape) + place
        sums = np.bincount(index.ravel(), gap.ravel(), bins * count * classes).reshape(count, -1)
        return np.abs(sums).sum(axis=1) / samples / classes

    return statistic


def weighted_classwise_ece(
    chunks: Iterable[tuple[Array, Array, Array]], weights: Array, num_classes: int, bins: int = 15
) -> Array:
    """Classwise ECE of weighted samples, (R,), from some of them at a time: memory does not grow with their number.

    Args:
        chunks: rows (n,) of the samples, their probabilities (n, K), and labels (n,).
        weights: (R, N) how often each sample counts.
        num_classes: K. bins: of equal width.
    """
    from scipy.sparse import csr_array  # a quarter of a second, which no other figure here needs

    edges = _edges(bins)
    sums = np.zeros((bins, num_classes, len(weights)))
    for rows, table, labels in chunks:
        drawn = weights[:, rows].T.astype(np.float64)
        gap = (labels[:, None] == np.arange(num_classes)) - table
        place = _equal_width(table.ravel(), edges).reshape(table.shape)
        # Of many classes nearly all probabilities lie in the first bin: one matrix product, the others are few.
        sums[0] += np.where(place == 0, gap, 0.0).T @ drawn
        sample, label = place.nonzero()
        for each in np.unique(place[sample, label]):
            here = place[sample, label] == each
            entries = (gap[sample[here], label[here]], (label[here], sample[here]))
            sums[each] += csr_array(entries, shape=(num_classes, len(rows))) @ drawn
    return np.abs(sums).sum(axis=(0, 1)) / weights.sum(axis=1) / num_classes


@checked(confidence=array("n"), correct=array("n"), bins=whole(1), level=number(0, 1), resamples=whole(1), seed=whole())
def ece_interval(
    confidence: Tensor | Array,
    correct: Tensor | Array,
    bins: int = 15,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """ECE with its basic bootstrap interval at ``level``; arguments as `expected_calibration_error`.

    Empty and small bins only ever add to an ECE, so it is larger on resamples than on the sample, as it is larger on
    the sample than in truth (Roelofs et al. 2022). The percentile interval adds this bias twice and can miss its own
    estimate; the basic one (Davison & Hinkley 1997, eq. 5.6) takes it off. It always holds the estimate.

    For several training seeds stack (confidence, correct) to (n, 2) each and call
    ``bootstrap_interval(arrays, ece_statistic(bins), grouped=True, method="basic")``.
    """
    found = bootstrap_interval(
        _rows(confidence, correct),
        ece_statistic(bins),
        confidence=level,
        resamples=resamples,
        seed=seed,
        method="basic",
    )
    return at_least_zero(found)


def at_least_zero(interval: Interval) -> Interval:
    """The interval of a calibration error, which is never negative, cut at 0."""
    return interval._replace(low=max(0.0, interval.low))


def _rows(confidence: Tensor | Array, correct: Tensor | Array) -> Array:
    """(n, 2), checked."""
    return np.stack(confidence_and_correct(confidence, correct), axis=1)


def _edges(bins: int) -> Array:
    # i/bins as a literal rounds it: linspace's third of ten lies above 0.3.
    return np.arange(bins + 1) / bins


def _equal_width(values: Array, edges: Array) -> Array:
    """Bin of each of the values (n,), as a search among the edges gives it, at a tenth of the time."""
    scaled = values * (len(edges) - 1)
    index = scaled.astype(np.int64)
    # Rounding can put a value on the wrong side of an edge it lies at; inner edges only: exactly 1 is in the last bin.
    close = np.flatnonzero(np.abs(scaled - np.rint(scaled)) < 1e-9)
    index[close] = np.searchsorted(edges[1:-1], values[close], side="right")
    return index
