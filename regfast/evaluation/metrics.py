"""Metrics for a training or validation loop, as torchmetrics has them: they accumulate batches and sync under DDP.

Needs the `metrics` extra (torchmetrics). Each is a sum over samples: the value is exact for any batch size and number
of ranks, and the sums stay float64 in a module of any precision.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regfast.checks import whole
from regfast.functional import feature_stats

with contextlib.suppress(ImportError):  # torchmetrics imports torchvision where it is installed: ours makes that work
    from regfast.models import _torchvision  # noqa: F401

from torchmetrics import Metric

__all__ = ["AttackSuccessRate", "CalibrationError", "CenterCosine", "FeatureRMS", "RobustAccuracy"]

# What a batch may not hold; the number of such rows is the state `refused`.
_REFUSALS: tuple[tuple[type[Exception], str], ...] = (
    (IndexError, "labels must lie in 0 … K-1 or be ignore_index"),
    (ValueError, "logits must not be NaN or +infinity: such a row has no confidence"),
)


class _Sums(Metric):
    """Sums over samples that no change of precision touches.

    Args:
        ignore_index: samples with this label do not count.
        options: as `torchmetrics.Metric` takes them.
    """

    is_differentiable = False
    full_state_update = False
    refused: Tensor

    def __init__(self, *, ignore_index: int = -100, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(ignore_index, int):
            raise TypeError(f"ignore_index must be an int, got {ignore_index!r}")
        self.ignore_index = ignore_index
        self.add_state("refused", torch.zeros(len(_REFUSALS), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, *names: str, shape: tuple[int, ...] = ()) -> None:
        # Names of the metric's own: a MetricCollection takes metrics whose states are alike for one and the same.
        for name in names:
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Any = "") -> Any:
        def moved(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        return super()._apply(moved, exclude_state)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Figure and axes of the value, or of the values ``val``, as torchmetrics draws them (needs matplotlib)."""
        return self._plot(val, ax)

    def _refuse(self, kind: int, rows: Tensor) -> None:
        """Raise where one of `rows` is true; on a device, where a look would make the host wait, `compute` raises."""
        if rows.device.type != "cpu":
            self.refused[kind] += rows.sum()
        elif bool(rows.any()):
            error, message = _REFUSALS[kind]
            raise error(f"{message}, got {int(rows.sum())} rows that are not")

    def _check(self) -> None:
        for (error, message), count in zip(_REFUSALS, self.refused.tolist(), strict=True):
            if count:
                raise error(f"{message}, got {count} rows that are not")

    def _known(self, labels: Tensor, classes: int) -> Tensor:
        """Which samples count."""
        _check_tensor("labels", labels)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        known = labels != self.ignore_index
        self._refuse(0, known & ((labels < 0) | (labels >= classes)))
        return known

    def _judged(self, labels: Tensor, *logits: Tensor) -> tuple[Tensor, ...]:
        """Which samples count, and for each of `logits` (or probabilities) which are right; NaN never is."""
        for rows in logits:
            _check_logits(rows, labels)
        known = self._known(labels, logits[0].shape[1])
        return known, *(known & (rows.argmax(1) == labels) & ~rows.isnan().any(1) for rows in logits)


class RobustAccuracy(_Sums):
    """Share of all samples still classified correctly after the attack, in [0, 1]. A NaN among logits is never right.

    Args:
        ignore_index: samples with this label do not count.
        options: as `torchmetrics.Metric` takes them.
    """

    higher_is_better = True
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    robust: Tensor
    samples: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._add("robust", "samples")

    def update(self, adversarial_logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits or probabilities (B, K) of the attacked images, labels (B,) integers.

        ValueError, TypeError: shapes or types that do not fit. IndexError: labels outside 0 … K-1.
        """
        known, right = self._judged(labels, adversarial_logits)
        self.robust += right.sum()
        self.samples += known.sum()

    def compute(self) -> Tensor:
        """The share as a float64 scalar; NaN before the first sample."""
        self._check()
        return self.robust / self.samples


class AttackSuccessRate(_Sums):
    """Share of the correctly classified samples that the attack flips (ASR), in [0, 1]; NaN while none was correct.

    A NaN among logits is never right: before the attack the sample does not count, after it the attack has succeeded.
    Args: as `RobustAccuracy`.
    """

    higher_is_better = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    flipped: Tensor
    correct: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._add("flipped", "correct")

    def update(self, clean_logits: Tensor, adversarial_logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, K) of clean and attacked images, labels (B,); errors as `RobustAccuracy`."""
        _, clean, adversarial = self._judged(labels, clean_logits, adversarial_logits)
        self.flipped += (clean & ~adversarial).sum()
        self.correct += clean.sum()

    def compute(self) -> Tensor:
        """The share as a float64 scalar."""
        self._check()
        return self.flipped / self.correct


class FeatureRMS(_Sums):
    """Mean of ‖v‖ / sqrt(d) over samples: the magnitude of the penultimate features."""

    rms: Tensor
    vectors: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._add("rms", "vectors")

    def update(self, features: Tensor) -> None:
        """Add a batch of features (B, d), floating point."""
        _check_tensor("features", features, floating=True)
        if features.ndim != 2:
            raise ValueError(f"features must have shape (B, d), got {tuple(features.shape)}")
        self.rms += features.detach().double().square().mean(1).sqrt().sum()
        self.vectors += len(features)

    def compute(self) -> Tensor:
        """The mean as a float64 scalar; NaN before the first sample."""
        return self.rms / self.vectors


class CenterCosine(_Sums):
    """Mean cosine of a sample's feature to the center of its class, in [-1, 1].

    Args:
        centers: (K, d) class centers, `regfast.representation.class_centers(...).points`.
        ignore_index, options: as `RobustAccuracy`.
    """

    plot_lower_bound, plot_upper_bound = -1.0, 1.0
    centers: Tensor
    cosine: Tensor
    compared: Tensor

    def __init__(self, centers: Tensor, **options: Any) -> None:
        super().__init__(**options)
        _check_tensor("centers", centers, floating=True)
        self.register_buffer("centers", centers.detach().clone())
        self._add("cosine", "compared")

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch: features (B, d), labels (B,) integers; errors as `RobustAccuracy`."""
        known = self._known(labels, len(self.centers))
        _check_tensor("features", features, floating=True)
        if features.shape != (*labels.shape, self.centers.shape[1]):
            raise ValueError(
                f"expected features (B, {self.centers.shape[1]}) and labels (B,), got {tuple(features.shape)} and "
                f"{tuple(labels.shape)}"
            )
        features = features.detach()
        centers = self.centers.to(features)
        cosine = feature_stats(features, centers, labels.long(), ignore_index=self.ignore_index).cosine
        self.cosine += torch.where(known, cosine, 0).double().sum()
        self.compared += known.sum()

    def compute(self) -> Tensor:
        """The mean as a float64 scalar; NaN before the first sample."""
        self._check()
        return self.cosine / self.compared


class CalibrationError(_Sums):
    """Expected calibration error (ECE), in [0, 1], over equal-width bins of the confidence.

    The same value as `regfast.calibration.expected_calibration_error` of all samples: bin i is [i/bins, (i+1)/bins),
    and exactly 1 falls in the last one.

    Args:
        bins: number of bins, at least 1 (Guo et al. 2017 use 15).
        ignore_index, options: as `RobustAccuracy`.
    """

    higher_is_better = False
    plot_lower_bound, plot_upper_bound = 0.0, 1.0
    count: Tensor
    confidence: Tensor
    correct: Tensor

    def __init__(self, bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        self.bins = whole(1)("bins", bins, {})
        self._add("count", "confidence", "correct", shape=(bins,))

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits or probabilities (B, K), labels (B,) integers.

        Rows are probabilities where all of the batch lie in [0, 1] and sum to 1 (within 0.01, for half precision).
        Errors as `RobustAccuracy`, and ValueError for NaN: such a row has no confidence.
        """
        known, right = self._judged(labels, logits)
        rows = logits.detach().double()
        probabilities = ((rows >= 0) & (rows <= 1)).all(1) & ((rows.sum(1) - 1).abs() <= 0.01)
        given = (probabilities | ~known).all()
        confidence = torch.where(given, rows, rows.softmax(1)).amax(1)
        self._refuse(1, known & confidence.isnan())
        confidence = torch.where(known, confidence, 0)
        edges = torch.arange(1, self.bins, dtype=torch.float64, device=rows.device) / self.bins
        placed = torch.bucketize(confidence, edges, right=True)
        self.count.index_add_(0, placed, known.double())
        self.confidence.index_add_(0, placed, confidence)
        self.correct.index_add_(0, placed, right.double())

    def compute(self) -> Tensor:
        """ECE as a float64 scalar; NaN before the first sample."""
        self._check()
        return (self.confidence - self.correct).abs().sum() / self.count.sum()


def _check_tensor(name: str, tensor: Tensor, *, floating: bool = False) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {getattr(tensor, 'layout', type(tensor).__name__)}")
    if floating and not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}")


def _check_logits(logits: Tensor, labels: Tensor) -> None:
    _check_tensor("logits", logits, floating=True)
    _check_tensor("labels", labels)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"expected logits (B, K) of K >= 2 classes and labels (B,), got {tuple(logits.shape)} and "
            f"{tuple(labels.shape)}; a single logit z stands for the two classes (0, z)"
        )
    if labels.device != logits.device:
        raise ValueError(f"labels must be on {logits.device} as the logits are, got {labels.device}")
