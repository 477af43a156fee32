"""What a study measures of one trained model: geometry, calibration inputs, attacks and a sweep over eps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regfast.attacks import PGD
from regfast.attacks.progress import Silent
from regfast.calibration import brier_scores, fit_temperature
from regfast.data import ImageArray, ImageSet
from regfast.functional import soft_cross_entropy_stats
from regfast.models import SplitClassifier
from regfast.representation import (
    ClassCenters,
    class_centers,
    default_radius,
    feature_displacement,
    feature_geometry,
)
from regfast.study.config import AttackSetting, Sweep
from regfast.training import predict

Columns = dict[str, NDArray[Any]]
Advance = Callable[[], None]
Told = Callable[[float], None]  # of the share that is done, in [0, 1]
_CHUNK = 4096  # images held in memory at once


def measure_clean(model: SplitClassifier, test: ImageSet, holdout: ImageSet) -> tuple[Columns, Columns]:
    """Columns of samples.parquet that need no attack, and what the tables need beside them.

    The second holds `logits` (N, K) float32, and as arrays of one element `temperature` (fitted on `holdout`),
    `radius` of the class centers (the median norm of correctly classified features) and `gap`, their certificate.
    """
    features, logits, labels = predict(model, test)
    centers = centers_at(model, default_radius(features, logits.argmax(1) == labels))
    _, held_logits, held_labels = predict(model, holdout)
    columns = clean_columns(model, centers, torch.arange(len(labels)), features, logits, labels)
    return columns, {"logits": logits.numpy(), **model_figures(centers, held_logits, held_labels)}


def centers_at(model: SplitClassifier, radius: float) -> ClassCenters:
    """The class centers of the model's head, on the CPU."""
    bias = None if model.head.bias is None else model.head.bias.detach().cpu()
    return class_centers(model.head.weight.detach().cpu(), bias, radius=radius)


def model_figures(centers: ClassCenters, held_logits: Tensor, held_labels: Tensor) -> Columns:
    """What is one figure a model: `temperature`, `radius` and `gap` of `measure_clean`."""
    return {
        "temperature": np.array([fit_temperature(held_logits, held_labels)]),
        "radius": np.array([centers.radius]),
        "gap": centers.gap.max().reshape(1).numpy(),
    }


def clean_columns(
    model: SplitClassifier, centers: ClassCenters, samples: Tensor, features: Tensor, logits: Tensor, labels: Tensor
) -> Columns:
    """Columns of samples.parquet that need no attack, of some of the images; `samples` (n,) are their ids."""
    _, stats = soft_cross_entropy_stats(logits, labels, features, centers.points.to(features))
    geometry = feature_geometry(features, model.head.weight.detach().cpu(), centers, labels, stats.prediction)
    columns = {
        "sample": samples,
        "label": labels,
        "prediction": stats.prediction,
        "correct": stats.prediction == labels,
        "confidence": stats.confidence,
        "loss": stats.loss,
        "entropy": stats.entropy,
        "margin": stats.margin,
        "brier": torch.from_numpy(brier_scores(logits.double().softmax(1), labels)),
        **{name: value.float() for name, value in geometry._asdict().items()},
    }
    return {name: column.numpy() for name, column in columns.items()}


class _Watcher(Silent):
    """Tells the share of an attack that is done: its stages count alike, and so do the chunks of images."""

    def __init__(self, told: Told, stages: int, chunk: int, chunks: int) -> None:
        super().__init__()
        self._told, self._stages, self._stage, self._chunk, self._chunks = told, stages, -1, chunk, chunks

    def begin(self, name: str, total: int) -> None:
        """A stage begins."""
        self._stage += 1
        super().begin(name, total)

    def tell(self, work: float, left: float) -> None:
        """So much of the stage is done, and at most so much is left."""
        stage = min(self._stage + work / max(work + left, 1e-9), self._stages)
        self._told((self._chunk + stage / self._stages) / self._chunks)


def measure_attack(
    model: SplitClassifier,
    test: ImageSet,
    setting: AttackSetting,
    seed: int,
    told: Told = lambda _: None,
    samples: Tensor | None = None,
) -> Columns:
    """Columns of one attack: success, and how it moved the features of the images that were classified correctly.

    For those that were not, `success` is False and the other columns are NaN. `samples` (N,) int64: ids of the images,
    which decide the random draws; their places by default.
    """
    parts: dict[str, list[Tensor]] = {}
    attack, chunks = setting.build(), -(-len(test) // _CHUNK)
    for chunk, (indices, images, labels) in enumerate(_chunks(test)):
        watcher = _Watcher(told, len(attack.stages()), chunk, chunks)
        ids = indices if samples is None else samples[indices]
        result = attack.run(model, images, labels, seed=seed, sample_ids=ids, progress=watcher)
        before, after = (_features(model, batch, labels, test) for batch in (images, result.images))
        moved = feature_displacement(before, after)
        parts.setdefault(f"success_{setting.id}", []).append(result.success.cpu())
        for name in ("toward_origin", "radial", "tangential"):
            value = getattr(moved, name).float().masked_fill(~result.clean.cpu(), torch.nan)
            parts.setdefault(f"{name}_{setting.id}", []).append(value)
    return {name: torch.cat(pieces).numpy() for name, pieces in parts.items()}


def measure_sweep(
    model: SplitClassifier,
    test: ImageSet,
    sweep: Sweep,
    seed: int,
    advance: Advance,
    told: Told = lambda _: None,
    samples: Tensor | None = None,
) -> list[dict[str, Any]]:
    """Rows of sweep.parquet. An image that falls at one eps has fallen at all larger ones: only survivors go on.

    `samples` as in `measure_attack`.
    """
    _, logits, labels = predict(model, test)
    standing = logits.argmax(1) == labels
    correct = int(standing.sum())
    rows = []
    for eps in sweep.eps:
        attack = PGD(sweep.norm, eps, sweep.steps)
        chunks = standing.nonzero().flatten().split(_CHUNK)
        for place, chunk in enumerate(chunks):
            watcher = _Watcher(told, 1, place, len(chunks))
            images = test.batch(chunk)
            ids = chunk if samples is None else samples[chunk]
            result = attack.run(model, images, labels[chunk], seed=seed, sample_ids=ids, progress=watcher)
            standing[chunk] = result.robust
        success = correct - int(standing.sum())
        rows.append(_swept(sweep.norm, eps, correct, success))
        advance()
    return rows


def joined_sweeps(parts: Sequence[Mapping[str, NDArray[Any]]]) -> list[dict[str, Any]]:
    """Rows of sweep.parquet of all images, from the columns of those of some each."""
    summed = {name: np.sum([part[name] for part in parts], axis=0) for name in ("correct", "success")}
    norms, eps = parts[0]["norm"], parts[0]["eps"]
    return [_swept(*row) for row in zip(norms, eps.tolist(), *(summed[name].tolist() for name in summed), strict=True)]


def _swept(norm: str, eps: float, correct: int, success: int) -> dict[str, Any]:
    rate = success / correct if correct else float("nan")
    return {"attack": "pgd", "norm": norm, "eps": eps, "correct": correct, "success": success, "asr": rate}


def _chunks(test: ImageSet) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Indices, images and labels, as many at a time as fit in memory whatever their size."""
    for indices in torch.arange(len(test)).split(_CHUNK):
        yield indices, test.batch(indices), test.labels[indices]


def _features(model: SplitClassifier, images: Tensor, labels: Tensor, test: ImageSet) -> Tensor:
    return predict(model, ImageArray(images, labels, test.classes))[0]
