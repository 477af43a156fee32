"""The figures of the tables, each with a bootstrap interval over seeds and test images: `metrics.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regfast.calibration import adaptive_ece_statistic, classwise_ece_statistic, ece_statistic
from regfast.calibration.bins import at_least_zero
from regfast.runs.files import read_arrays, read_columns, write_json
from regfast.statistics import Interval, Method, Statistic, bootstrap_interval

Array = NDArray[Any]
Columns = Mapping[str, Array]
Figure = dict[str, Any]

BINS = 15
RESAMPLES = 1000
MEANS = ("rms", "rms_in_span", "cosine", "cosine_predicted", "cosine_in_span", "share_in_span", "confidence")


@dataclass(frozen=True)
class Measured:
    """What was measured of one regularizer, a seed each: columns of samples.parquet as float64, and of its model."""

    samples: Sequence[Columns]
    models: Sequence[Columns]

    def pick(self, *names: str) -> list[Array]:
        """(N, names) of each seed."""
        return [np.stack([seed[name] for name in names], axis=1) for seed in self.samples]

    def probabilities(self, scaled: bool = False) -> list[Array]:
        """(N, K) of each seed, at its temperature where `scaled`."""
        return [_softmax(seed["logits"] / seed["temperature"] if scaled else seed["logits"]) for seed in self.models]

    def of_model(self, name: str) -> list[float]:
        """One figure a model."""
        return [float(seed[name][0]) for seed in self.models]


def _classwise(measured: Measured) -> Figure:
    pairs = zip(measured.probabilities(), measured.samples, strict=True)
    return _error([_join(p, seed["label"]) for p, seed in pairs], classwise_ece_statistic(BINS))


def _after_scaling(measured: Measured) -> Figure:
    pairs = zip(measured.probabilities(scaled=True), measured.samples, strict=True)
    return _error([_join(p.max(axis=1), seed["correct"]) for p, seed in pairs], ece_statistic(BINS))


def mean_of(column: str) -> Callable[[Measured], Figure]:
    """The mean of a column of samples.parquet, as a figure for `FIGURES`."""
    return lambda measured: _figure(measured.pick(column), _mean)


# Every figure of the tables but the attacks' success rates. One that is added here appears in metrics.json and in the
# table; report/tables.py may give it a longer name.
FIGURES: dict[str, Callable[[Measured], Figure]] = {
    "accuracy": mean_of("correct"),
    "nll": mean_of("loss"),
    "brier": mean_of("brier"),
    "ece": lambda measured: _error(measured.pick("confidence", "correct"), ece_statistic(BINS)),
    "ece_adaptive": lambda measured: _error(measured.pick("confidence", "correct"), adaptive_ece_statistic(BINS)),
    "ece_classwise": _classwise,
    "ece_temperature": _after_scaling,
    "temperature": lambda measured: _over_seeds(measured.of_model("temperature")),
    "radius": lambda measured: _over_seeds(measured.of_model("radius")),
    **{name: mean_of(name) for name in MEANS},
}


def metrics(samples: Sequence[Columns], models: Sequence[Columns], attacks: Sequence[str]) -> dict[str, Figure]:
    """Every figure of one regularizer: mean over seeds, 95 % interval, value of each seed.

    `samples` and `models`: what `measure_clean` gives for each seed, with the columns of the attacks (by id) added to
    the first. A resample draws seeds, and test images, the same ones for every seed. `temperature` is fitted to
    held-out images and `radius` is one figure a model: their intervals are over seeds alone, and `ece_temperature`
    keeps each seed's temperature.
    """
    columns = [{name: np.asarray(values, dtype=np.float64) for name, values in seed.items()} for seed in samples]
    measured = Measured(columns, models)
    found = {name: figure(measured) for name, figure in FIGURES.items()}
    for seed in columns:
        seed["judged"] = seed["correct"] * seed.get("attacked", 1.0)
    return found | {f"asr_{id_}": _figure(measured.pick(f"success_{id_}", "judged"), _ratio) for id_ in attacks}


def write_metrics(folder: Path, units: Mapping[str, Sequence[Path]], attacks: Sequence[str]) -> None:
    """Write `metrics.json` into `folder`.

    Args:
        units: per regularizer the folders, one a seed, that hold its `samples.parquet` and `model.npz`.
        attacks: their ids.
    """
    found: dict[str, Any] = {}
    for name, own in units.items():
        samples = [read_columns(unit / "samples.parquet") for unit in own]
        numbers = [{key: values for key, values in seed.items() if key != "regularizer"} for seed in samples]
        found[name] = metrics(numbers, [read_arrays(unit / "model.npz") for unit in own], attacks)
    temperature = {name: figures["temperature"] for name, figures in found.items()}
    write_json(folder / "metrics.json", {"regularizers": found, "temperature": temperature})


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


def _join(values: Array, last: Array) -> Array:
    return np.concatenate([values.reshape(len(last), -1), last[:, None]], axis=1)


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
