"""The public functions: losses with soft labels, with statistics, and the geometry of features.

A target is one of: classes (B,) int64 (index target), probabilities (B, K) floating (probability target), or
`SoftTargets` (a structured probability target).
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from regfast.ops import feature_stats as _feature_stats
from regfast.ops import linear_soft_cross_entropy as _linear_soft_cross_entropy
from regfast.ops import soft_cross_entropy as _soft_cross_entropy
from regfast.ops.feature_stats import FeatureStats
from regfast.ops.soft_cross_entropy import Backward, SampleStats
from regfast.ops.target import Reduction
from regfast.ops.target import Target as _Target
from regfast.targets import SoftTargets

__all__ = [
    "FeatureStats",
    "SampleStats",
    "Target",
    "feature_stats",
    "linear_soft_cross_entropy",
    "soft_cross_entropy",
    "soft_cross_entropy_stats",
]

Target: TypeAlias = "Tensor | SoftTargets"


def soft_cross_entropy(
    logits: Tensor,
    target: Target,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float | Tensor = 0.0,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    inplace: bool = False,
    backward: Backward = "auto",
) -> Tensor:
    """Cross-entropy of logits with hard, dense or structured targets, in one pass forward and one backward.

    Agrees with `torch.nn.functional.cross_entropy` wherever that defines the case. Per row, with the target q
    (smoothed, then times the class weights): `Σ q · lse(z) - Σ q z`, shifted by the largest logit, in float32.

    Args:
        logits: (B, K) floating; any strides.
        target: (B,) int64, (B, K) floating, or `SoftTargets`.
        reduction: "none", "sum", or "mean": over index targets divided by `Σ sample_weight · class_weight[y]`, over
            probability targets by `Σ sample_weight`, of the rows not ignored.
        label_smoothing: ε in [0, 1], on top of any target: `(1 - ε) q + ε/K`; a number or a 0-d tensor.
        class_weight: (K,) floating: `q_c ← w_c q_c`.
        sample_weight: (B,) floating, multiplies the row's loss.
        ignore_index: rows with this class (of `SoftTargets`: this `first`) have loss and gradient exactly 0.
        inplace: let the backward pass write its gradient over `logits`, which hold nothing of use afterwards.
        backward: "store" makes the gradient in the forward pass, "recompute" makes it when asked for; "auto" stores
            for "mean" and "sum", recomputes for "none".

    Returns:
        0-d or (B,) float32; float64 for float64 logits.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape, device or range.
        IndexError: classes out of [0, K), on CPU; on a GPU (and compiled) such rows have a NaN loss and gradient.
    """
    checked = _checked(logits, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction)
    return _soft_cross_entropy.soft_cross_entropy(
        logits, checked, inplace=inplace, backward=_checked_backward(backward)
    )


def soft_cross_entropy_stats(
    logits: Tensor,
    target: Target,
    features: Tensor | None = None,
    centers: Tensor | None = None,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float | Tensor = 0.0,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    backward: Backward = "auto",
    feature_grad: bool = False,
) -> tuple[Tensor, SampleStats]:
    """`soft_cross_entropy`, and the statistics of every sample from the same pass.

    Args (the others as in `soft_cross_entropy`):
        features: (B, d) floating, for rms and cosines.
        centers: (K, d) floating constants, for the cosines.
        feature_grad: let rms, cosine and cosine_predicted carry gradients to `features`, to penalise them in training.

    Returns:
        The loss, and `SampleStats`: loss, log_partition, confidence, prediction, entropy, margin, rms, cosine and
        cosine_predicted, each (B,).

    Raises:
        TypeError, ValueError, IndexError: as `soft_cross_entropy`; ValueError also for centers without features.
    """
    checked = _checked(logits, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction)
    if features is not None:
        _check_matrix("features", features)
        _check_rows("features", features, logits)
        if centers is not None:
            _check_centers(centers, features, logits.shape[1])
    elif centers is not None or feature_grad:
        raise ValueError("centers and feature_grad need features, got None")
    return _soft_cross_entropy.soft_cross_entropy_stats(
        logits, checked, features, centers, backward=_checked_backward(backward), feature_grad=feature_grad
    )


def linear_soft_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Target,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float | Tensor = 0.0,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
) -> Tensor:
    """`soft_cross_entropy` of `linear(features, weight, bias)`, without the (B, K) logits in memory.

    Exact, and as fast for mixed as for hard targets. Worth it where K is larger than d. Under autocast the product runs
    in the autocast dtype, as a linear layer's would.

    Args (the others as in `soft_cross_entropy`):
        features: (B, d) floating.
        weight: (K, d), of the same dtype.
        bias: (K,), of the same dtype, or None.

    Raises:
        TypeError, ValueError, IndexError: as `soft_cross_entropy`.
    """
    _check_matrix("features", features)
    _check_matrix("weight", weight)
    device = features.device.type
    if torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if weight.shape[1] != features.shape[1] or weight.dtype != features.dtype:
        raise ValueError(
            f"weight must be (K, {features.shape[1]}) {features.dtype}, got {_shape(weight)} {weight.dtype}"
        )
    classes = weight.shape[0]
    if bias is not None and (bias.shape != (classes,) or bias.dtype != features.dtype):
        raise ValueError(f"bias must be ({classes},) {features.dtype}, got {_shape(bias)} {bias.dtype}")
    checked = _checked(features, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction, classes)
    return _linear_soft_cross_entropy.linear_soft_cross_entropy(features, weight, bias, checked)


def feature_stats(
    features: Tensor, centers: Tensor, labels: Tensor, predictions: Tensor | None = None, *, ignore_index: int = -100
) -> FeatureStats:
    """RMS of features, and their cosines to the centers of labels and predictions; differentiable in `features`.

    Args:
        features: (B, d) floating.
        centers: (K, d) floating constants.
        labels: (B,) int64.
        predictions: (B,) int64; without them `cosine_predicted` is NaN.
        ignore_index: rows with this label have a NaN cosine.

    Returns:
        `FeatureStats`: rms `‖v‖ / sqrt(d)`, cosine, cosine_predicted, each (B,) float32 (float64 for float64).

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape or device.
        IndexError: classes out of [0, K), on CPU; on a GPU (and compiled) their cosines are NaN.
    """
    _check_matrix("features", features)
    _check_centers(centers, features)
    _check_classes("labels", labels, features)
    if predictions is not None:
        _check_classes("predictions", predictions, features)
    return _feature_stats.feature_stats(features, centers, labels, predictions, ignore_index=ignore_index)


def _checked(
    rows: Tensor,
    target: Target,
    label_smoothing: float | Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: Reduction,
    classes: int | None = None,
) -> _Target:
    """The target as the ops take it, after checking it and the weights against `rows` (B, …).

    Small losses wait for this code, hence few calls.
    """
    _check_matrix("logits", rows)
    if classes is None:
        classes = rows.size(1)
    if classes < 1:
        raise ValueError("logits must have at least one class, got none")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if isinstance(label_smoothing, Tensor):
        if label_smoothing.dim() or not label_smoothing.is_floating_point():
            raise ValueError(f"label_smoothing must be a number or a 0-d tensor, got shape {_shape(label_smoothing)}")
    elif not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
    if class_weight is not None:
        _check_weights("class_weight", class_weight, rows, classes)
    if sample_weight is not None:
        _check_weights("sample_weight", sample_weight, rows, len(rows))

    weights = (class_weight, sample_weight, ignore_index, reduction)
    if isinstance(target, Tensor):
        if not target.is_floating_point():
            _check_classes("target", target, rows)
            return _Target(target, None, 1.0, None, label_smoothing, *weights, True)
        if target.shape != (len(rows), classes):
            raise ValueError(f"a probability target must have shape {(len(rows), classes)}, got {_shape(target)}")
        _check_device("target", target, rows)
        if ignore_index >= 0:
            raise ValueError(f"ignore_index is for index targets, got {ignore_index} with a probability target")
        return _Target(None, None, 1.0, target, label_smoothing, *weights)
    if not isinstance(target, SoftTargets):
        raise TypeError(f"target must be a tensor or SoftTargets, got {type(target).__name__}")
    if target.num_classes != classes:
        raise ValueError(f"target has {target.num_classes} classes, logits have {classes}")
    _check_classes("target", target.first, rows)
    # (1 - ε)((1 - s) e + s/K) + ε/K, exact where s or ε is 0.
    smoothing = target.smoothing + (1 - target.smoothing) * label_smoothing
    lam = target.lam
    hard = not isinstance(lam, Tensor) and lam == 1
    if not isinstance(lam, Tensor) and torch.compiler.is_compiling():
        # λ is another number in every batch: handed on as one, it would be compiled anew for each.
        lam = torch.ones((), dtype=torch.float64, device=rows.device) * lam
    return _Target(target.first, None if hard else target.second, lam, None, smoothing, *weights)


def _checked_backward(backward: Backward) -> Backward:
    if backward not in ("auto", "store", "recompute"):
        raise ValueError(f"backward must be 'auto', 'store' or 'recompute', got {backward!r}")
    return backward


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _check_matrix(name: str, matrix: Tensor) -> None:
    if not isinstance(matrix, Tensor) or not matrix.is_floating_point():
        got = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
        raise TypeError(f"{name} must be a floating tensor, got {got}")
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, rows first, got shape {_shape(matrix)}")


def _check_rows(name: str, tensor: Tensor, rows: Tensor) -> None:
    if tensor.size(0) != rows.size(0):
        raise ValueError(f"{name} must have {len(rows)} rows, got {len(tensor)}")
    _check_device(name, tensor, rows)


def _check_device(name: str, tensor: Tensor, rows: Tensor) -> None:
    if not (tensor.is_cpu and rows.is_cpu) and tensor.device != rows.device:
        raise ValueError(f"{name} must be on {rows.device}, got {tensor.device}")


def _check_centers(centers: Tensor, features: Tensor, classes: int | None = None) -> None:
    _check_matrix("centers", centers)
    if centers.shape[1] != features.shape[1] or (classes is not None and centers.shape[0] != classes):
        raise ValueError(f"centers must have shape {(classes or 'K', features.shape[1])}, got {_shape(centers)}")
    _check_device("centers", centers, features)


def _check_classes(name: str, classes: Tensor, rows: Tensor) -> None:
    if not isinstance(classes, Tensor) or classes.dtype != torch.int64:
        got = classes.dtype if isinstance(classes, Tensor) else type(classes).__name__
        raise TypeError(f"{name} must be int64 classes, got {got}")
    if classes.dim() != 1:
        raise ValueError(f"{name} must have shape ({rows.shape[0]},), got {_shape(classes)}")
    _check_rows(name, classes, rows)


def _check_weights(name: str, weights: Tensor, rows: Tensor, length: int) -> None:
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        got = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"{name} must be a floating tensor, got {got}")
    if weights.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {_shape(weights)}")
    _check_device(name, weights, rows)
