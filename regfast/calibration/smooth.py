"""Smooth ECE (Błasiok & Nakkiran 2023): kernel smoothing in place of bins, at a bandwidth that the data fix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct, idct
from torch import Tensor

from regfast.calibration._arrays import confidence_and_correct
from regfast.calibration.bins import at_least_zero
from regfast.checks import array, checked, number, whole
from regfast.statistics import Interval, bootstrap_interval

Array = NDArray[Any]

# Cells of [0, 1]: bandwidths are known to half of one, 0.001.
_CELLS = 512


class SmoothReliability(NamedTuple):
    """A smooth reliability diagram, all (cells,): accuracy as a function of confidence with a bootstrap band."""

    confidence: Array
    accuracy: Array
    low: Array
    high: Array
    density: Array  # of the confidences, smoothed alike; integrates to 1
    bandwidth: float


@checked(confidence=array("n"), correct=array("n"))
def smooth_calibration_error(confidence: Tensor | Array, correct: Tensor | Array) -> float:
    """smECE in [0, 1]: consistent and without bins, a number near the distance to the nearest calibrated predictor.

    With r̂_σ(t) the residuals (confidence - correct) smoothed by a Gaussian of bandwidth σ reflected at 0 and 1,
    smECE_σ = ∫|r̂_σ(t)| dt falls in σ, and smECE is its value at the fixed point smECE_σ = σ.

    Args:
        confidence: (n,) in [0, 1]. correct: (n,) bool or 0/1.

    Raises:
        ValueError: as `regfast.calibration.reliability_bins`.
    """
    rows = np.stack(confidence_and_correct(confidence, correct), axis=1)
    return float(_smooth_error(rows[None])[0][0])


@checked(confidence=array("n"), correct=array("n"), level=number(0, 1), resamples=whole(1), seed=whole())
def smooth_ece_interval(
    confidence: Tensor | Array, correct: Tensor | Array, *, level: float = 0.95, resamples: int = 500, seed: int = 0
) -> Interval:
    """smECE with its basic bootstrap interval at ``level``, which holds the estimate (see `ece_interval`)."""
    rows = np.stack(confidence_and_correct(confidence, correct), axis=1)
    found = bootstrap_interval(
        rows,
        lambda drawn: _smooth_error(drawn)[0],
        confidence=level,
        resamples=resamples,
        seed=seed,
        method="basic",
    )
    return at_least_zero(found)


@checked(confidence=array("n"), correct=array("n"), level=number(0, 1), resamples=whole(1), seed=whole())
def smooth_reliability(
    confidence: Tensor | Array, correct: Tensor | Array, *, level: float = 0.95, resamples: int = 200, seed: int = 0
) -> SmoothReliability:
    """Accuracy over confidence by kernel regression at smECE's bandwidth, with a pointwise bootstrap band at ``level``.

    Arguments and errors as `smooth_calibration_error`. Accuracy is NaN where the density of confidences is below 1e-3.
    """
    rows = np.stack(confidence_and_correct(confidence, correct), axis=1)
    width = float(_smooth_error(rows[None])[1][0])

    def regression(drawn: Array) -> Array:
        weight = _smoothed(_spectrum(drawn[..., 0], np.ones(drawn.shape[:2])), width)
        hits = _smoothed(_spectrum(drawn[..., 0], drawn[..., 1]), width)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Where a resample has no data its accuracy is unknown: any value in [0, 1], so the middle widens nothing.
            return np.where(weight > 1e-3, np.clip(hits / weight, 0, 1), 0.5)

    band = bootstrap_interval(rows, regression, confidence=level, resamples=resamples, seed=seed)
    density = _smoothed(_spectrum(rows[None, :, 0], np.ones((1, len(rows)))), width)[0]
    accuracy, low, high = (np.where(density > 1e-3, curve, np.nan) for curve in band)
    return SmoothReliability((np.arange(_CELLS) + 0.5) / _CELLS, accuracy, low, high, density, width)


def _smooth_error(rows: Array) -> tuple[Array, Array]:
    """SmECE and its bandwidth (R,) for rows (R, n, 2), by bisection of smECE_σ - σ, which falls in σ."""
    spectrum = _spectrum(rows[..., 0], rows[..., 0] - rows[..., 1])
    low, high = np.zeros(len(rows)), np.ones(len(rows))
    while float((high - low).max()) > 0.5 / _CELLS:
        width = (low + high) / 2
        wider = np.abs(_smoothed(spectrum, width[:, None])).mean(axis=1) > width
        low, high = np.where(wider, width, low), np.where(wider, high, width)
    return np.abs(_smoothed(spectrum, high[:, None])).mean(axis=1), high


def _spectrum(place: Array, mass: Array) -> Array:
    """Cosine transform (R, cells) of mass (R, n) at places in [0, 1], as a density; a mass is split over two cells."""
    count, samples = place.shape
    cell = place * _CELLS - 0.5
    left = np.floor(cell)
    share = cell - left
    start = _CELLS * np.arange(count)[:, None]
    total = np.zeros(count * _CELLS)
    for index, part in ((left, 1 - share), (left + 1, share)):
        # Reflection at the ends: what would fall outside belongs to the end cell.
        target = np.clip(index, 0, _CELLS - 1).astype(np.int64) + start
        total += np.bincount(target.ravel(), (mass * part).ravel(), count * _CELLS)
    return dct(total.reshape(count, _CELLS) * (_CELLS / samples), type=2, axis=1)


def _smoothed(spectrum: Array, width: float | Array) -> Array:
    # A Gaussian reflected at both ends is the heat kernel of an insulated rod: cosines fade as exp(-(πkσ)²/2).
    fade = np.exp(-((np.pi * np.arange(_CELLS) * width) ** 2) / 2)
    return idct(spectrum * fade, type=2, axis=1)
