"""The figures of the tables, each with a bootstrap interval over seeds and test images: `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regfast.calibration import adaptive_ece_statistic, classwise_ece_statistic, ece_statistic
from regfast.calibration.bins import at_least_zero
from regfast.statistics import Interval, Method, Statistic, bootstrap_interval

Array = NDArray[Any]
Columns = Mapping[str, Array]
Figure = dict[str, Any]

BINS = 15
RESAMPLES = 1000
MEANS = ("rms", "rms_in_span", "cosine", "cosine_predicted", "cosine_in_span", "share_in_span", "confidence")


def metrics(samples: Sequence[Columns], models: Sequence[Columns], attacks: Sequence[str]) -> dict[str, Figure]:
    """Every figure of one regularizer: mean over seeds, 95 % interval, value of each seed.

    `samples` and `models`: what `measure_clean` gives for each seed, with the columns of the attacks (by id) added to
    the first. A resample draws seeds, and test images, the same ones for every seed. `temperature` is fitted to
    held-out images and `radius` is one figure a model: their intervals are over seeds alone, and `ece_temperature`
    keeps each seed's temperature.
    """
    columns = [{name: np.asarray(values, dtype=np.float64) for name, values in seed.items()} for seed in samples]
    raw = [_softmax(seed["logits"]) for seed in models]
    scaled = [_softmax(seed["logits"] / seed["temperature"]) for seed in models]
    ece = ece_statistic(BINS)
    figures = {
        "accuracy": _figure(_pick(columns, "correct"), _mean),
        "nll": _figure(_pick(columns, "loss"), _mean),
        "brier": _figure(_pick(columns, "brier"), _mean),
        "ece": _error(_pick(columns, "confidence", "correct"), ece),
        "ece_adaptive": _error(_pick(columns, "confidence", "correct"), adaptive_ece_statistic(BINS)),
        "ece_classwise": _error(
            [_join(p, seed["label"]) for p, seed in zip(raw, columns, strict=True)], classwise_ece_statistic(BINS)
        ),
        "ece_temperature": _error(
            [_join(p.max(axis=1), seed["correct"]) for p, seed in zip(scaled, columns, strict=True)], ece
        ),
        "temperature": _over_seeds([float(seed["temperature"][0]) for seed in models]),
        "radius": _over_seeds([float(seed["radius"][0]) for seed in models]),
    }
    figures |= {name: _figure(_pick(columns, name), _mean) for name in MEANS}
    figures |= {f"asr_{attack}": _figure(_pick(columns, f"success_{attack}", "correct"), _ratio) for attack in attacks}
    return figures


def _mean(resampled: Array) -> Array:
    return np.nanmean(resampled[..., 0], axis=1)


def _ratio(resampled: Array) -> Array:
    """Σ first column / Σ second, NaN where that is 0: no image was right."""
    sums = resampled.sum(axis=1)
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _figure(groups: Sequence[Array], statistic: Statistic) -> Figure:
    return _described(_interval(groups, statistic, "percentile"), groups, statistic)


def _error(groups: Sequence[Array], statistic: Statistic) -> Figure:
    """A calibration error, whose percentile interval can miss it (`regfast.calibration.ece_interval`)."""
    return _described(at_least_zero(_interval(groups, statistic, "basic")), groups, statistic)


def _interval(groups: Sequence[Array], statistic: Statistic, method: Method) -> Interval:
    return bootstrap_interval(groups, statistic, resamples=RESAMPLES, grouped=True, shared_samples=True, method=method)


def _described(found: Interval, groups: Sequence[Array], statistic: Statistic) -> Figure:
    per_seed = [float(statistic(group[None])[0]) for group in groups]
    return {"mean": float(found.estimate), "low": float(found.low), "high": float(found.high), "per_seed": per_seed}


def _over_seeds(values: Sequence[float]) -> Figure:
    found = bootstrap_interval(np.array(values), resamples=RESAMPLES)
    return {"mean": float(found.estimate), "low": float(found.low), "high": float(found.high), "per_seed": list(values)}


def _pick(columns: Sequence[Columns], *names: str) -> list[Array]:
    return [np.stack([seed[name] for name in names], axis=1) for seed in columns]


def _join(values: Array, last: Array) -> Array:
    return np.concatenate([values.reshape(len(last), -1), last[:, None]], axis=1)


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
