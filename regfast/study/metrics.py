"""The figures of the tables, each with a bootstrap interval over seeds and test images: `metrics.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regfast.calibration import adaptive_ece_statistic, ece_statistic
from regfast.calibration.bins import at_least_zero, weighted_classwise_ece
from regfast.runs.files import read_arrays, read_columns, write_json
from regfast.statistics import Interval, Method, Statistic, bootstrap_interval, counted_interval

Array = NDArray[Any]
Columns = Mapping[str, Array]
Figure = dict[str, Any]
Logits = Callable[[], Iterable[tuple[Array, Array]]]

BINS = 15
RESAMPLES = 1000
_ROWS = 4096  # samples whose logits are held at once
MEANS = ("rms", "rms_in_span", "cosine", "cosine_predicted", "cosine_in_span", "share_in_span", "confidence")


@dataclass(frozen=True)
class Measured:
    """What was measured of one regularizer, a seed each: columns of samples.parquet as float64, and of its model.

    `logits` give rows of the samples (n,) with their logits (n, K), some at a time.
    """

    samples: Sequence[Columns]
    models: Sequence[Columns]
    logits: Sequence[Logits]
    num_classes: int

    def pick(self, *names: str) -> list[Array]:
        """(N, names) of each seed."""
        return [np.stack([seed[name] for name in names], axis=1) for seed in self.samples]

    def of_model(self, name: str) -> list[float]:
        """One figure a model."""
        return [float(seed[name][0]) for seed in self.models]


def _classwise(measured: Measured) -> Figure:
    labels, classes = [seed["label"] for seed in measured.samples], measured.num_classes

    def statistic(seed: int, weights: Array) -> Array:
        chunks = ((rows, _softmax(logits), labels[seed][rows]) for rows, logits in measured.logits[seed]())
        return weighted_classwise_ece(chunks, weights, classes, BINS)

    count, every = len(labels[0]), np.ones((1, len(labels[0])), dtype=np.uint16)
    found = at_least_zero(counted_interval(statistic, len(labels), count, resamples=RESAMPLES, method="basic"))
    return _with_seeds(found, [float(statistic(seed, every)[0]) for seed in range(len(labels))])


def _after_scaling(measured: Measured) -> Figure:
    columns = []
    for seed, logits, temperature in zip(
        measured.samples, measured.logits, measured.of_model("temperature"), strict=True
    ):
        confidence = np.empty(len(seed["correct"]))
        for rows, chunk in logits():
            confidence[rows] = _softmax(chunk / temperature).max(axis=1)
        columns.append(np.stack([confidence, seed["correct"]], axis=1))
    return _error(columns, ece_statistic(BINS))


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


def metrics(
    samples: Sequence[Columns],
    models: Sequence[Columns],
    attacks: Sequence[str],
    logits: Sequence[Logits] | None = None,
) -> dict[str, Figure]:
    """Every figure of one regularizer: mean over seeds, 95 % interval, value of each seed.

    `samples` and `models`: what `measure_clean` gives for each seed, with the columns of the attacks (by id) added to
    the first. `logits`: where the second has none, rows (n,) of the samples with their logits (n, K), some at a time.
    A resample draws seeds, and test images, the same ones for every seed. `temperature` is fitted to held-out images
    and `radius` is one figure a model: their intervals are over seeds alone, and `ece_temperature` keeps each seed's
    temperature.
    """
    columns = [{name: np.asarray(values, dtype=np.float64) for name, values in seed.items()} for seed in samples]
    given = [partial(_chunks, model["logits"]) for model in models] if logits is None else logits
    measured = Measured(columns, models, given, next(iter(given[0]()))[1].shape[1])
    found = {name: figure(measured) for name, figure in FIGURES.items()}
    for seed in columns:
        seed["judged"] = seed["correct"] * seed.get("attacked", 1.0)
    return found | {f"asr_{id_}": _figure(measured.pick(f"success_{id_}", "judged"), _ratio) for id_ in attacks}


def _chunks(logits: Array) -> Iterator[tuple[Array, Array]]:
    for start in range(0, len(logits), _ROWS):
        chunk = logits[start : start + _ROWS]
        yield np.arange(start, start + len(chunk)), chunk


def write_metrics(
    folder: Path,
    units: Mapping[str, Sequence[Path]],
    attacks: Sequence[str],
    logits: Mapping[str, Sequence[Logits]] | None = None,
) -> None:
    """Write `metrics.json` into `folder`.

    Args:
        units: per regularizer the folders, one a seed, that hold its `samples.parquet` and `model.npz`.
        attacks: their ids.
        logits: per regularizer as in `metrics`, where model.npz does not hold them.
    """
    found: dict[str, Any] = {}
    for name, own in units.items():
        samples = [read_columns(unit / "samples.parquet") for unit in own]
        numbers = [{key: values for key, values in seed.items() if key != "regularizer"} for seed in samples]
        found[name] = metrics(
            numbers,
            [read_arrays(unit / "model.npz") for unit in own],
            attacks,
            None if logits is None else logits[name],
        )
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
    return _with_seeds(found, [float(statistic(group[None])[0]) for group in groups])


def _over_seeds(values: Sequence[float]) -> Figure:
    return _with_seeds(bootstrap_interval(np.array(values), resamples=RESAMPLES), values)


def _with_seeds(found: Interval, values: Sequence[float]) -> Figure:
    return {"mean": float(found.estimate), "low": float(found.low), "high": float(found.high), "per_seed": list(values)}


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
