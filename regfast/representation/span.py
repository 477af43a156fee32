"""The row space of a centred head: the only part of a feature that moves the softmax."""

from __future__ import annotations

import torch
from torch import Tensor


def centred(weight: Tensor) -> Tensor:
    """Head weights (K, d) in float64 minus their mean over the classes: the softmax cannot see that mean."""
    weight = weight.detach().double()
    return weight - weight.mean(dim=0)


def row_space(weight: Tensor) -> Tensor:
    """Orthonormal basis (rank, d), float64, of the row space of the centred head weights (K, d).

    The rank is at most min(K - 1, d); singular values below max(K, d)·2⁻⁵²·(the largest) count as zero.
    Raises ValueError unless ``weight`` is a finite (K, d) matrix.
    """
    check_weight(weight)
    _, values, rows = torch.linalg.svd(centred(weight), full_matrices=False)
    floor = max(weight.shape) * torch.finfo(torch.float64).eps * values[:1]
    return rows[values > floor]


def check_weight(weight: Tensor, bias: Tensor | None = None) -> None:
    """ValueError or TypeError unless ``weight`` is a finite floating (K, d) matrix and ``bias`` finite (K,) or None."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight must be (K, d) with K, d >= 1, got shape {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({len(weight)},) as weight has {len(weight)} rows, got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{name} must be finite, got {int((~torch.isfinite(tensor)).sum())} NaN or infinite entries"
            )
