"""The public functions: losses with soft labels, with statistics, and the geometry of features.

A target is one of: classes (B,) int64 (index target), probabilities (B, K) floating (probability target), or
`SoftTargets` (a structured probability target); or any of them with more dimensions, where the logits have such.
"""

from __future__ import annotations

import math
import operator
from typing import Any, TypeAlias

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
    rows, checked = _checked(
        logits, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction, z_loss
    )
    if backward not in ("auto", "store", "recompute"):
        raise ValueError(f"backward must be 'auto', 'store' or 'recompute', got {backward!r}")
    loss = _soft_cross_entropy.soft_cross_entropy(rows, checked, inplace=inplace, backward=backward)
    return loss if rows is logits or reduction != "none" else loss.view(_positions(logits))


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
        TypeError, ValueError, IndexError: as `soft_cross_entropy`; ValueError also for centers without features.

    >>> loss, stats = soft_cross_entropy_stats(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    >>> stats.confidence, stats.prediction, stats.margin
    (tensor([0.7870]), tensor([0]), tensor([2.]))
    """
    rows, checked = _checked(
        logits, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction, z_loss
    )
    if backward not in ("auto", "store", "recompute"):
        raise ValueError(f"backward must be 'auto', 'store' or 'recompute', got {backward!r}")
    if features is not None:
        _check_floating("features", features)
        if features.ndim != logits.ndim or _positions(features) != _positions(logits):
            expected = (*logits.shape[:1], "d", *logits.shape[2:]) if logits.ndim > 1 else ("d",)
            raise ValueError(f"features must have shape {expected}, got {_shape(features)}")
        _check_device("features", features, rows)
        features = _rows(features)
        if centers is not None:
            _check_centers(centers, features, rows.shape[1])
    elif centers is not None:
        raise ValueError("centers need features, got None")
    loss, stats = _soft_cross_entropy.soft_cross_entropy_stats(
        rows, checked, features, centers, backward=backward, feature_grad=feature_grad
    )
    if rows is logits:
        return loss, stats
    shape = _positions(logits)
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
    _check_floating("features", features)
    _check_matrix("weight", weight)
    _check_device("weight", weight, features)
    if bias is not None:
        _check_floating("bias", bias)
        _check_device("bias", bias, features)
    device = features.device.type
    if not features.is_meta and torch.is_autocast_enabled(device) and features.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        features, weight = features.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if weight.shape[1] != features.shape[-1] or weight.dtype != features.dtype:
        raise ValueError(
            f"weight must be (K, {features.shape[-1]}) {features.dtype}, got {_shape(weight)} {weight.dtype}"
        )
    classes = weight.shape[0]
    if bias is not None and (bias.shape != (classes,) or bias.dtype != features.dtype):
        raise ValueError(f"bias must be ({classes},) {features.dtype}, got {_shape(bias)} {bias.dtype}")
    if features.ndim != 2:
        if isinstance(target, Tensor) and target.is_floating_point():
            if target.shape != (*features.shape[:-1], classes):
                expected = (*features.shape[:-1], classes)
                raise ValueError(f"a probability target must have shape {expected}, got {_shape(target)}")
            target = target.movedim(-1, min(1, target.ndim - 1))
        features = features.movedim(-1, min(1, features.ndim - 1))  # where logits have their classes
    rows, checked = _checked(
        features, target, label_smoothing, class_weight, sample_weight, ignore_index, reduction, z_loss, classes
    )
    loss = _linear_soft_cross_entropy.linear_soft_cross_entropy(rows, weight, bias, checked)
    return loss if rows is features or reduction != "none" else loss.view(_positions(features))


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
    labels = _labels(labels, features, features, "labels")
    if predictions is not None:
        predictions = _labels(predictions, features, features, "predictions")
    ignore_index = _integer("ignore_index", ignore_index)
    return _feature_stats.feature_stats(features, centers, labels, predictions, ignore_index=ignore_index)


def _checked(
    logits: Tensor,
    target: Target,
    label_smoothing: float | Tensor,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    reduction: Reduction,
    z_loss: float,
    classes: int | None = None,
) -> tuple[Tensor, _Target]:
    """Rows (N, K) of the logits and the target as the ops take it, after checking it and the weights against them.

    Small losses wait for this code, hence few calls: each attribute of a tensor takes 50 ns, each call 60.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim == 0 or logits.is_sparse:
        _check_floating("logits", logits)
    rows = logits if logits.ndim == 2 else _rows(logits)
    if classes is None:
        classes = rows.size(1)
    if classes < 1:
        raise ValueError("logits must have at least one class, got none")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    smoothing = label_smoothing
    if type(smoothing) is not float or not 0 <= smoothing <= 1:
        smoothing = _share("label_smoothing", smoothing, rows)
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
        ignore_index = _integer("ignore_index", ignore_index)
    if z_loss != 0.0 or type(z_loss) is not float:
        z_loss = _number("z_loss", z_loss)
        if not 0 <= z_loss < math.inf:
            raise ValueError(f"z_loss must be at least 0 and finite, got {z_loss}")
    if class_weight is not None:
        _check_weights("class_weight", class_weight, rows, (classes,))
    if sample_weight is not None:
        _check_weights("sample_weight", sample_weight, rows, _positions(logits))
        sample_weight = sample_weight.reshape(-1)
    first = second = dense = None
    lam: float | Tensor = 1.0
    index_target = False
    if isinstance(target, SoftTargets):
        if target.num_classes != classes:
            raise ValueError(f"target has {target.num_classes} classes, logits have {classes}")
        first, lam = _labels(target.first, logits, rows), target.lam
        if isinstance(lam, Tensor):
            lam = _scalar("lam", lam, rows) if lam.ndim == 0 else _lam(lam, target.first, rows)
        if isinstance(lam, Tensor) or lam != 1:
            second = target.second if rows is logits else target.second.reshape(-1)
        own = target.smoothing
        if isinstance(own, Tensor):
            own = _scalar("smoothing", own, rows)
        smoothing = own + (1 - own) * smoothing  # (1 - ε)((1 - s) e + s/K) + ε/K, exact where s or ε is 0
    elif not isinstance(target, Tensor):
        raise TypeError(f"target must be a tensor or SoftTargets, got {type(target).__name__}")
    elif target.is_floating_point():
        # For the linear loss `logits` are features, and `classes` not their second dimension.
        shape = (rows.size(0), classes)
        if rows is not logits:
            shape = (*logits.shape[: logits.ndim > 1], classes, *logits.shape[2:])
        if target.is_sparse:
            _check_floating("target", target)
        if target.shape != shape:
            raise ValueError(f"a probability target must have shape {tuple(shape)}, got {_shape(target)}")
        _check_device("target", target, rows)
        if ignore_index >= 0:
            raise ValueError(f"ignore_index is for index targets, got {ignore_index} with a probability target")
        dense = target if rows is logits else _rows(target)
    else:
        first, index_target = _labels(target, logits, rows), True
        if class_weight is not None and class_weight.requires_grad and torch.is_grad_enabled():
            raise ValueError("class_weight requires grad, but index targets have none for it: detach it")
    if torch.compiler.is_compiling():
        # Another number in every batch: handed on as one, it would be compiled anew for each.
        lam, smoothing = _traced(lam, rows), _traced(smoothing, rows)
    return rows, _Target(
        first, second, lam, dense, smoothing, class_weight, sample_weight, ignore_index, reduction, index_target, z_loss
    )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _positions(tensor: Tensor) -> tuple[int, ...]:
    """The shape without its classes: (B,) of (B, K), (B, d1, …) of (B, K, d1, …), () of (K,)."""
    return _shape(tensor)[:1] + _shape(tensor)[2:] if tensor.ndim > 1 else ()


def _rows(tensor: Tensor) -> Tensor:
    """(N, K) of (B, K, d1, …) or (K,); a view where the strides allow one, as those of `channels_last` do."""
    if tensor.ndim < 2:
        return tensor.view(1, -1)
    return tensor if tensor.ndim == 2 else tensor.movedim(1, -1).flatten(0, -2)


def _labels(labels: Tensor, logits: Tensor, rows: Tensor, name: str = "target") -> Tensor:
    """(N,) int64 of the classes of the positions of `logits`."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be int64 classes, got {type(labels).__name__}")
    if labels.is_sparse:
        raise TypeError(f"{name} must be a dense tensor, got {labels.layout}")
    if labels.dtype != torch.int64:
        if labels.dtype not in (torch.uint8, torch.int8, torch.int16, torch.int32):
            raise TypeError(f"{name} must be int64 classes (or smaller integers), got {labels.dtype}")
        labels = labels.long()
    if rows is not logits:
        if labels.shape != _positions(logits):
            raise ValueError(f"{name} must have shape {_positions(logits)}, got {_shape(labels)}")
        labels = labels.reshape(-1)
    elif labels.ndim != 1:
        raise ValueError(f"{name} must have shape ({len(rows)},), got {_shape(labels)}")
    elif labels.size(0) != rows.size(0):
        raise ValueError(f"{name} must have {len(rows)} rows, got {len(labels)}")
    _check_device(name, labels, rows)
    return labels


def _lam(lam: Tensor, first: Tensor, rows: Tensor) -> Tensor:
    """(N,): λ of every row, of one for each sample or each label."""
    _check_device("lam", lam, rows)
    if lam.ndim < first.ndim:
        lam = lam.view(-1, *[1] * (first.ndim - 1)).expand(first.shape)
    return lam if lam.ndim == 1 else lam.reshape(-1)


def _share(name: str, value: float | Tensor, rows: Tensor) -> float | Tensor:
    """A number in [0, 1], or a 0-d tensor that the ops can read without anybody waiting."""
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(f"{name} must be a number or a 0-d tensor, got shape {_shape(value)}")
        return _scalar(name, value if value.is_floating_point() else value.double(), rows)
    if type(value) is not float:
        value = _number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")
    return value


def _scalar(name: str, value: Tensor, rows: Tensor) -> float | Tensor:
    """A 0-d tensor on the device of `rows`; one on the CPU, whose value is at hand, as a number elsewhere."""
    if value.is_cpu and not rows.is_cpu:
        constant = not value.requires_grad and not torch.compiler.is_compiling()
        return float(value) if constant else value.to(rows.device)
    _check_device(name, value, rows)
    return value


def _traced(value: float | Tensor, rows: Tensor) -> float | Tensor:
    """A number as a tensor, for the compiler; 0 and 1 stay, since they spare work."""
    if isinstance(value, Tensor) or value == 0 or value == 1:
        return value
    return torch.ones((), dtype=torch.float64, device=rows.device) * value


def _number(name: str, value: Any) -> float:
    """Python's and NumPy's numbers, and 0-d tensors."""
    if isinstance(value, str) or not hasattr(value, "__float__") or (hasattr(value, "ndim") and value.ndim):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


def _integer(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        got = value if isinstance(value, float) else type(value).__name__
        raise TypeError(f"{name} must be an integer, got {got}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must fit 64 bits, got {number}")
    return number


def _check_floating(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating tensor, got {got}")
    if tensor.is_sparse:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")
    if tensor.ndim < 1:
        raise ValueError(f"{name} must have at least one dimension, got a scalar")


def _check_matrix(name: str, matrix: Tensor) -> None:
    _check_floating(name, matrix)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, rows first, got shape {_shape(matrix)}")


def _check_device(name: str, tensor: Tensor, rows: Tensor) -> None:
    if not (tensor.is_cpu and rows.is_cpu) and tensor.device != rows.device:
        raise ValueError(f"{name} must be on {rows.device}, got {tensor.device}")


def _check_centers(centers: Tensor, features: Tensor, classes: int | None = None) -> None:
    _check_matrix("centers", centers)
    if centers.shape[1] != features.shape[1] or (classes is not None and centers.shape[0] != classes):
        raise ValueError(f"centers must have shape {(classes or 'K', features.shape[1])}, got {_shape(centers)}")
    _check_device("centers", centers, features)


def _check_weights(name: str, weights: Tensor, rows: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(weights, Tensor) or not weights.is_floating_point() or weights.is_sparse:
        _check_floating(name, weights)
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {_shape(weights)}")
    _check_device(name, weights, rows)
