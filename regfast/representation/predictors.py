"""What predicts robustness: the cosine to v_opt, to the class mean or to w_c, the norm, the margin, the confidence."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regfast.checks import checked, floats
from regfast.representation.boundary import in_float64
from regfast.representation.centers import ClassCenters, of_centers
from regfast.representation.geometry import cosine
from regfast.representation.span import CLASSIFIED, row_space
from regfast.statistics import Interval, bootstrap_interval

Array = NDArray[Any]


class Predictors(NamedTuple):
    """Scores per sample, all (B,) float64: higher should mean more robust. Cosines are in the span of the head."""

    v_opt: Array
    class_mean: Array
    weight: Array
    norm: Array
    margin: Array
    confidence: Array


class PredictorPower(NamedTuple):
    """How well a score tells robust from fooled: AUC, and how much more (or less) than v_opt's cosine."""

    auc: Interval
    over_v_opt: Interval


@checked(**CLASSIFIED, centers=of_centers(floats("K", "d")), means=floats("K", "d"))
def predictor_scores(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    centers: ClassCenters | Tensor,
    means: Tensor,
) -> Predictors:
    """Scores of every predictor for each sample.

    Args:
        features: (B, d), weight: (K, d), bias: (K,) or None, labels: (B,) int64.
        centers: `ClassCenters` or points (K, d). means: class means (K, d), from the training split to be fair.

    Raises:
        ValueError: shapes that do not fit. IndexError: a label out of range.
    """
    v, head, offset = in_float64(features, weight, bias)
    points = centers.points if isinstance(centers, ClassCenters) else centers
    span = row_space(weight).to(v).T
    inside = v @ span

    def toward(rows: Tensor) -> Array:
        rows = rows.to(v)
        return cosine(inside, ((rows - rows.mean(dim=0)) @ span)[labels]).cpu().numpy()

    logits = v @ head.T + offset
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return Predictors(
        v_opt=cosine(inside, (points.to(v) @ span)[labels]).cpu().numpy(),
        class_mean=toward(means),
        weight=toward(head),
        norm=v.norm(dim=1).cpu().numpy(),
        margin=(own[:, 0] - others).cpu().numpy(),
        confidence=torch.softmax(logits, 1).amax(1).cpu().numpy(),
    )


def predictor_power(
    scores: Predictors, robust: Array | Tensor, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, PredictorPower]:
    """AUC of each score for telling robust samples from fooled ones, with bootstrap intervals, paired against v_opt's.

    Args:
        scores: of the correctly classified samples only. robust: (B,) bool, whether the attack failed on each.
        confidence, resamples, seed: as in `regfast.statistics.bootstrap_interval`.

    An AUC of 1/2 is no information; it is NaN where every sample is robust or none is.

    Raises:
        ValueError: scores and outcomes of different numbers of samples.
    """
    survived = np.asarray(robust.cpu() if isinstance(robust, Tensor) else robust)
    if survived.shape != scores.v_opt.shape:
        raise ValueError(f"robust must be {scores.v_opt.shape} as the scores are, got {survived.shape}")
    # Only the order of a score matters to its AUC: small whole numbers in the order of the scores say it all.
    codes = [np.unique(score, return_inverse=True)[1] for score in scores]
    rows = np.column_stack([*codes, survived]).astype(np.int32)
    found = bootstrap_interval(rows, _auc_and_lead, confidence=confidence, resamples=resamples, seed=seed)
    pairs = [Interval(*(float(end) for end in ends)) for ends in zip(*found, strict=True)]
    names, count = scores._fields, len(scores)
    return {name: PredictorPower(pairs[i], pairs[count + i]) for i, name in enumerate(names)}


def _auc_and_lead(rows: Array) -> Array:
    """AUC of every score, then its lead over the first one's: rows (R, n, m + 1) of codes and outcome → (R, 2m)."""
    count, samples, columns = rows.shape
    positive = rows[..., -1].astype(np.float64)
    total = positive.sum(axis=1)
    areas = np.empty((count, columns - 1))
    start = samples * np.arange(count)[:, None]
    for column in range(columns - 1):
        place = (rows[..., column] + start).ravel()
        hits = np.bincount(place, positive.ravel(), count * samples).reshape(count, samples)
        misses = np.bincount(place, minlength=count * samples).reshape(count, samples) - hits
        # P(positive above negative), ties one half (Mann & Whitney 1947).
        wins = (hits * (misses.cumsum(axis=1) - misses / 2)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            areas[:, column] = wins / (total * (samples - total))
    return np.hstack([areas, areas - areas[:, :1]])
