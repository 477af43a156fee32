"""What the losses are given, checked, and as the ops take it."""

from __future__ import annotations

import math
import operator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from regfast.ops.target import Reduction
from regfast.ops.target import Target as _Target
from regfast.targets import SoftTargets
from regfast.targets.soft_targets import looks_at

Target: TypeAlias = "Tensor | SoftTargets"


def rows_and_target(
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
        check_floating("logits", logits)
    rows = logits if logits.ndim == 2 else rows_of(logits)
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
        ignore_index = check_integer("ignore_index", ignore_index)
    if z_loss != 0.0 or type(z_loss) is not float:
        z_loss = _number("z_loss", z_loss)
        if not 0 <= z_loss < math.inf:
            raise ValueError(f"z_loss must be at least 0 and finite, got {z_loss}")
    if class_weight is not None:
        _check_weights("class_weight", class_weight, rows, (classes,))
    if sample_weight is not None:
        _check_weights("sample_weight", sample_weight, rows, positions_of(logits))
        sample_weight = sample_weight.reshape(-1)
    first = second = dense = None
    lam: float | Tensor = 1.0
    index_target = False
    if isinstance(target, SoftTargets):
        if target.num_classes != classes:
            raise ValueError(f"target has {target.num_classes} classes, logits have {classes}")
        first, lam = check_labels(target.first, logits, rows), target.lam
        if isinstance(lam, Tensor):
            lam = _scalar("lam", lam, rows) if lam.ndim == 0 else _lam(lam, target.first, rows)
        if target.second is not target.first:  # with λ = 1 too: a partner that is ignored ignores the row
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
            check_floating("target", target)
        if target.shape != shape:
            hint = ""
            if target.shape == positions_of(logits):
                hint = "; classes must be integers: target.long()"
            raise ValueError(f"a probability target must have shape {tuple(shape)}, got {shape_of(target)}{hint}")
        check_device("target", target, rows)
        if ignore_index >= 0:
            raise ValueError(f"ignore_index is for index targets, got {ignore_index} with a probability target")
        dense = target if rows is logits else rows_of(target)
    else:
        first, index_target = check_labels(target, logits, rows), True
        if class_weight is not None and class_weight.requires_grad and torch.is_grad_enabled():
            raise ValueError("class_weight requires grad, but index targets have none for it: detach it")
    if torch.compiler.is_compiling():
        # Another number in every batch: handed on as one, it would be compiled anew for each.
        lam, smoothing = _traced(lam, rows), _traced(smoothing, rows)
    return rows, _Target(
        first, second, lam, dense, smoothing, class_weight, sample_weight, ignore_index, reduction, index_target, z_loss
    )


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """As messages show it."""
    return tuple(tensor.shape)


def positions_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape without its classes: (B,) of (B, K), (B, d1, …) of (B, K, d1, …), () of (K,)."""
    return shape_of(tensor)[:1] + shape_of(tensor)[2:] if tensor.ndim > 1 else ()


def rows_of(tensor: Tensor) -> Tensor:
    """(N, K) of (B, K, d1, …) or (K,); a view where the strides allow one, as those of `channels_last` do."""
    if tensor.ndim < 2:
        return tensor.view(1, -1)
    return tensor if tensor.ndim == 2 else tensor.movedim(1, -1).flatten(0, -2)


def check_labels(labels: Tensor, logits: Tensor, rows: Tensor, name: str = "target") -> Tensor:
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
        if labels.shape != positions_of(logits):
            hint = ""
            if labels.shape == logits.shape[:-1]:  # (B, T, K) of tokens
                hint = f"; dimension 1 of logits is the classes: logits.movedim(-1, 1) if there are {logits.shape[-1]}"
            raise ValueError(f"{name} must have shape {positions_of(logits)}, got {shape_of(labels)}{hint}")
        labels = labels.reshape(-1)
    elif labels.ndim != 1:
        raise ValueError(f"{name} must have shape ({len(rows)},), got {shape_of(labels)}")
    elif labels.size(0) != rows.size(0):
        raise ValueError(f"{name} must have {len(rows)} rows, got {len(labels)}")
    check_device(name, labels, rows)
    return labels


def _lam(lam: Tensor, first: Tensor, rows: Tensor) -> Tensor:
    """(N,): λ of every row, of one for each sample or each label."""
    check_device("lam", lam, rows)
    if lam.ndim < first.ndim:
        lam = lam.view(-1, *[1] * (first.ndim - 1)).expand(first.shape)
    return lam if lam.ndim == 1 else lam.reshape(-1)


def _share(name: str, value: float | Tensor, rows: Tensor) -> float | Tensor:
    """A number in [0, 1], or a 0-d tensor that the ops can read without anybody waiting."""
    if isinstance(value, Tensor):
        if value.ndim:
            raise ValueError(f"{name} must be a number or a 0-d tensor, got shape {shape_of(value)}")
        if looks_at(value) and not 0 <= float(value.detach()) <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {float(value.detach())}")
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
    check_device(name, value, rows)
    return value


def _traced(value: float | Tensor, rows: Tensor) -> float | Tensor:
    """A number as a tensor, for the compiler; 0 and 1 stay, since they spare work."""
    if isinstance(value, Tensor) or value == 0 or value == 1:
        return value
    return torch.ones((), dtype=torch.float64, device=rows.device) * value


def _number(name: str, value: Any) -> float:
    """Python's and NumPy's numbers, and 0-d tensors."""
    if isinstance(value, (int, float)):  # numbers that a compiled function was given have no __float__
        return value * 1.0
    if isinstance(value, Tensor):
        check_constant(name, value)
    if isinstance(value, str) or not hasattr(value, "__float__") or (hasattr(value, "ndim") and value.ndim):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)


def check_integer(name: str, value: Any) -> int:
    """`value` as an int; TypeError for what is none, ValueError beyond 64 bits."""
    try:
        number = operator.index(value)
    except TypeError:
        got = value if isinstance(value, float) else type(value).__name__
        raise TypeError(f"{name} must be an integer, got {got}") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name} must fit 64 bits, got {number}")
    return number


def check_floating(name: str, tensor: Tensor) -> None:
    """Raise TypeError or ValueError for anything but a dense floating tensor."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating tensor, got {got}")
    if tensor.is_sparse:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}")
    if tensor.ndim < 1:
        raise ValueError(f"{name} must have at least one dimension, got a scalar")


def check_constant(name: str, tensor: Tensor) -> None:
    """Raise ValueError for a tensor that would be given no gradient although it requires one."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} is a constant, which gets no gradient, but requires grad: detach it")


def check_matrix(name: str, matrix: Tensor) -> None:
    """Raise TypeError or ValueError for anything but a floating matrix."""
    check_floating(name, matrix)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have two dimensions, rows first, got shape {shape_of(matrix)}")


def check_device(name: str, tensor: Tensor, rows: Tensor) -> None:
    """Raise ValueError for a tensor on another device than `rows`."""
    if not (tensor.is_cpu and rows.is_cpu) and tensor.device != rows.device:
        raise ValueError(f"{name} must be on {rows.device}, got {tensor.device}")


def check_centers(centers: Tensor, features: Tensor, classes: int | None = None) -> None:
    """Raise TypeError or ValueError for centers that are not (K, d) beside features (B, d)."""
    check_matrix("centers", centers)
    if centers.shape[1] != features.shape[1] or (classes is not None and centers.shape[0] != classes):
        raise ValueError(f"centers must have shape {(classes or 'K', features.shape[1])}, got {shape_of(centers)}")
    check_device("centers", centers, features)


def _check_weights(name: str, weights: Tensor, rows: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(weights, Tensor) or not weights.is_floating_point() or weights.is_sparse:
        check_floating(name, weights)
    if weights.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {shape_of(weights)}")
    check_device(name, weights, rows)
