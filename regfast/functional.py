"""The public functions: losses with soft labels, with statistics, and the geometry of features.

A target is one of: classes (B,) int64 (index target), probabilities (B, K) floating (probability target), or
`SoftTargets` (a structured probability target); or any of them with more dimensions, where the logits have such.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.loss_arguments import (
    Target,
    check_centers,
    check_constant,
    check_device,
    check_floating,
    check_integer,
    check_labels,
    check_matrix,
    positions_of,
    rows_and_target,
    rows_of,
    shape_of,
)
from regfast.ops import feature_stats as _feature_stats
from regfast.ops import linear_soft_cross_entropy as _linear_soft_cross_entropy
from regfast.ops import soft_cross_entropy as _soft_cross_entropy
from regfast.ops.feature_stats import FeatureStats
from regfast.ops.soft_cross_entropy import Backward, SampleStats
from regfast.ops.target import Reduction

__all__ = [
    "FeatureStats",
    "SampleStats",
    "Target",
    "feature_stats",
    "linear_soft_cross_entropy",
    "soft_cross_entropy",
    "soft_cross_entropy_stats",
]


def soft_cross_entropy(
    logits: Tensor,
    target: Target,
    *,
    reduction: Reduction = "mean",
    label_smoothing: float | Tensor = 0.0,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    inplace: bool = False,
    backward: Backward = "auto",
) -> Tensor:
    """Cross-entropy of logits with hard, dense or structured targets, in one pass forward and one backward.

    Agrees with `torch.nn.functional.cross_entropy` wherever that defines the case. Per row, with the target q
    (smoothed, then times the class weights): `Σ q · lse(z) - Σ q z`, shifted by the largest logit, in float32.

    Args:
        logits: (B, K) floating, any strides; (B, K, d1, …) for pixels or tokens, whose positions are rows then; (K,).
        target: classes (B,), (B, d1, …) or 0-d, int64 or smaller integers; probabilities in the shape of `logits`; or
            `SoftTargets` of such classes.
        reduction: "none", "sum", or "mean": over index targets divided by `Σ sample_weight · class_weight[y]`, over
            probability targets by `Σ sample_weight`, of the rows not ignored.
        label_smoothing: ε in [0, 1], on top of any target: `(1 - ε) q + ε/K`; a number or a 0-d tensor.
        class_weight: (K,) floating: `q_c ← w_c q_c`. Differentiable, but for index targets.
        sample_weight: in the shape of the classes, floating; multiplies the row's loss. Differentiable.
        ignore_index: rows with this class (of `SoftTargets`: as `first` or `second`) have loss and gradient exactly 0.
        z_loss: c ≥ 0, adds `c · lse(z)²` to the row's loss, which keeps `lse(z)` near 0 (Chowdhery et al. 2022, PaLM,
            arXiv 2204.02311, section 5). Class weights do not enter, all else holds as for the loss.
        inplace: allow the gradient to take the memory of `logits`, which hold nothing of use afterwards. Taken where
            the gradient is made in the forward pass and no leaf and no second row lies in that memory.
        backward: "store" makes the gradient in the forward pass, "recompute" makes it when asked for; "auto" stores
            for "mean" and "sum", recomputes for "none" and for float16: there a stored gradient is rounded before a
            loss scale reaches it, and what is below 6e-8 is lost. On a GPU it also recomputes where the loss before was
            scaled (`loss / n`), since that moves less; the results are the same.

    Returns:
        0-d, or in the shape of the classes; float32, float64 for float64 logits.

    Raises:
        TypeError, ValueError: for arguments of the wrong type, shape, device or range.
        IndexError: classes out of [0, K), on CPU; on a GPU (and compiled) such rows have a NaN loss and gradient.

    >>> soft_cross_entropy(torch.zeros(2, 4), torch.tensor([1, 3]), label_smoothing=0.1)
    tensor(1.3863)
    >>> soft_cross_entropy(torch.zeros(2, 4), torch.tensor([1, 3]), reduction="none", z_loss=1.0)
    tensor([3.3081, 3.3081])
    """
    if class_weight is None and sample_weight is None and z_loss == 0.0 and type(logits) is type(target) is Tensor:
        loss = _soft_cross_entropy.loss_of_labels(
            logits, target, label_smoothing, ignore_index, reduction, inplace, backward
        )
        if loss is not None:
            return loss
    rows, checked = rows_and_target(
        logits, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction, z_loss
    )
    if backward not in ("auto", "store", "recompute"):
        raise ValueError(f"backward must be 'auto', 'store' or 'recompute', got {backward!r}")
    loss = _soft_cross_entropy.soft_cross_entropy(rows, checked, inplace=inplace, backward=backward)
    return loss if rows is logits or reduction != "none" else loss.view(positions_of(logits))


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
    z_loss: float = 0.0,
    backward: Backward = "auto",
    feature_grad: bool = True,
) -> tuple[Tensor, SampleStats]:
    """`soft_cross_entropy`, and the statistics of every sample from the same pass.

    All but `prediction` carry gradients, to penalize them in training: detach what you only look at.

    Args (the others as in `soft_cross_entropy`):
        features: (B, d) floating, for rms and cosines; (B, d, d1, …) or (d,) where the logits have such a shape.
        centers: (K, d) floating constants, for the cosines.
        feature_grad: False makes constants of rms, cosine and cosine_predicted, whatever requires grad.

    Returns:
        The loss, and `SampleStats`: loss, log_partition, confidence, prediction, entropy, margin, rms, cosine and
        cosine_predicted, each in the shape of the classes.

    Raises:
        TypeError, ValueError, IndexError: as `soft_cross_entropy`; ValueError also for centers without features, and
            for centers that require grad where features do.

    >>> loss, stats = soft_cross_entropy_stats(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    >>> stats.confidence, stats.prediction, stats.margin
    (tensor([0.7870]), tensor([0]), tensor([2.]))
    """
    rows, checked = rows_and_target(
        logits, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction, z_loss
    )
    if backward not in ("auto", "store", "recompute"):
        raise ValueError(f"backward must be 'auto', 'store' or 'recompute', got {backward!r}")
    if features is not None:
        check_floating("features", features)
        if features.ndim != logits.ndim or positions_of(features) != positions_of(logits):
            expected = (*logits.shape[:1], "d", *logits.shape[2:]) if logits.ndim > 1 else ("d",)
            raise ValueError(f"features must have shape {expected}, got {shape_of(features)}")
        check_device("features", features, rows)
        features = rows_of(features)
        if centers is not None:
            check_centers(centers, features, rows.shape[1])
            if features.requires_grad and feature_grad:
                check_constant("centers", centers)
    elif centers is not None:
        raise ValueError("centers need features, got None")
    loss, stats = _soft_cross_entropy.soft_cross_entropy_stats(
        rows, checked, features, centers, backward=backward, feature_grad=feature_grad
    )
    if rows is logits:
        return loss, stats
    shape = positions_of(logits)
    return (loss.view(shape) if reduction == "none" else loss), SampleStats(*(value.view(shape) for value in stats))


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
    z_loss: float = 0.0,
) -> Tensor:
    """`soft_cross_entropy` of `linear(features, weight, bias)`, without the (B, K) logits in memory beyond a limit.

    Exact, and as fast for mixed as for hard targets. Worth it where K is larger than d. A GPU holds at most 512 MB of
    logits at a time, or as much as `weight` takes in float32, if that is more; their gradient takes their place. Under
    autocast the product runs in the autocast dtype, as a linear layer's would.

    Args (the others as in `soft_cross_entropy`):
        features: (B, d) floating; as for a linear layer also (…, d), such as (B, T, d) of tokens, or (d,).
        weight: (K, d), of the same dtype.
        bias: (K,), of the same dtype, or None.
        target: classes in the shape of `features` without d, probabilities with K in the place of d, or `SoftTargets`.

    Raises:
        TypeError, ValueError, IndexError: as `soft_cross_entropy`.

    >>> features, weight = torch.zeros(2, 3, 8), torch.zeros(5, 8)
    >>> linear_soft_cross_entropy(features, weight, None, torch.tensor([[0, 4, -100], [1, 2, 3]]))
    tensor(1.6094)
    """
    check_floating("features", features)
    check_matrix("weight", weight)
    check_device("weight", weight, features)
    if bias is not None:
        check_floating("bias", bias)
        check_device("bias", bias, features)
    device = features.device.type
    if not features.is_meta and torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if weight.shape[1] != features.shape[-1] or weight.dtype != features.dtype:
        raise ValueError(
            f"weight must be (K, {features.shape[-1]}) {features.dtype}, got {shape_of(weight)} {weight.dtype}"
        )
    classes = weight.shape[0]
    if bias is not None and (bias.shape != (classes,) or bias.dtype != features.dtype):
        raise ValueError(f"bias must be ({classes},) {features.dtype}, got {shape_of(bias)} {bias.dtype}")
    if features.ndim != 2:
        if isinstance(target, Tensor) and target.is_floating_point():
            if target.shape != (*features.shape[:-1], classes):
                expected = (*features.shape[:-1], classes)
                raise ValueError(f"a probability target must have shape {expected}, got {shape_of(target)}")
            target = target.movedim(-1, min(1, target.ndim - 1))
        features = features.movedim(-1, min(1, features.ndim - 1))  # where logits have their classes
    rows, checked = rows_and_target(
        features, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction, z_loss, classes
    )
    loss = _linear_soft_cross_entropy.linear_soft_cross_entropy(rows, weight, bias, checked)
    return loss if rows is features or reduction != "none" else loss.view(positions_of(features))


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
        TypeError, ValueError: for arguments of the wrong type, shape or device, and for centers that require grad where
            features do.
        IndexError: classes out of [0, K), on CPU; on a GPU (and compiled) their cosines are NaN.

    >>> found = feature_stats(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1]))
    >>> found.rms, found.cosine
    (tensor([3.5355]), tensor([0.8000]))
    """
    check_matrix("features", features)
    check_centers(centers, features)
    if features.requires_grad:
        check_constant("centers", centers)
    labels = check_labels(labels, features, features, "labels")
    if predictions is not None:
        predictions = check_labels(predictions, features, features, "predictions")
    ignore_index = check_integer("ignore_index", ignore_index)
    return _feature_stats.feature_stats(features, centers, labels, predictions, ignore_index=ignore_index)
