"""What the reference ops share: precision, per-row numbers, labels that may be out of range."""

from __future__ import annotations

import torch
from torch import Tensor


def upcast(tensor: Tensor) -> Tensor:
    """In the dtype that sums are taken in: float64 stays, anything else becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def product(coefficient: Tensor | float, factor: Tensor) -> Tensor:
    """coefficient · factor, where a coefficient of 0 wins over an infinite factor (also in the gradient)."""
    if not isinstance(coefficient, Tensor):
        return factor * coefficient if coefficient else torch.zeros_like(factor)
    zero = coefficient == 0
    return coefficient * torch.where(zero, 0.0, factor)


def pick(rows: Tensor, index: Tensor) -> Tensor:
    """rows[i, index[i]], (B,)."""
    return rows.gather(1, index.unsqueeze(1)).squeeze(1)


def _batched(tensor: Tensor) -> bool:
    """Whether torch.func.vmap runs over the tensor: then its values can't be looked at."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            return True
        tensor = functorch.get_unwrapped(tensor)
    return False


def in_range(labels: Tensor, classes: int, name: str, ignore_index: int | None = None) -> Tensor:
    """(B,) bool: the labels in [0, classes).

    Raises:
        IndexError: on CPU in eager mode, if a label is neither in range nor `ignore_index`. Elsewhere looking would
            wait for the device, or could not be traced or mapped: the caller makes NaN of those rows.
    """
    inside = (labels >= 0) & (labels < classes)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and not _batched(labels):
        bad = ~inside if ignore_index is None else ~inside & (labels != ignore_index)
        if bad.any():
            row = int(bad.nonzero()[0, 0])
            raise IndexError(f"{name}[{row}] is {int(labels[row])}, expected a class in [0, {classes})")
    return inside
