"""The row space of a centered head: the only part of a feature that moves the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.checks import Kind, checked, classes, floats, optional

# What a linear head's arguments are, and with the features that it classified.
LINEAR_HEAD: dict[str, Kind] = {
    "weight": floats("K", "d", finite=True, least=(2, 1)),
    "bias": optional(floats("K", finite=True)),
}
CLASSIFIED: dict[str, Kind] = {**LINEAR_HEAD, "features": floats("B", "d"), "labels": classes("B", "K")}


def centered(weight: Tensor) -> Tensor:
    """Head weights (K, d) in float64 minus their mean over the classes: the softmax cannot see that mean."""
    weight = weight.detach().double()
    return weight - weight.mean(dim=0)


@checked(weight=floats("K", "d", finite=True, least=(1, 1)))
def row_space(weight: Tensor) -> Tensor:
    """Orthonormal basis (rank, d), float64, of the row space of the centered head weights (K, d).

    The rank is at most min(K - 1, d); singular values below max(K, d)·2⁻⁵²·(the largest) count as zero.
    Raises ValueError unless ``weight`` is a finite (K, d) matrix.
    """
    rows = centered(weight)
    factors = _full_rank(rows)
    if factors is not None:
        return factors[0].T
    _, values, axes = torch.linalg.svd(rows, full_matrices=False)
    return axes[values > _floor(rows) * values[:1]]


def pseudoinverse(weight: Tensor) -> tuple[Tensor, int]:
    """C⁺ (d, K), float64, of the centered head weights C, and C's rank."""
    rows = centered(weight)
    factors = _full_rank(rows)
    if factors is None:
        # Cut where row_space cuts: the rounding left in the direction common to all classes must not be inverted.
        return torch.linalg.pinv(rows, rtol=_floor(rows)), len(row_space(weight))
    count = len(rows)
    if count - 1 > rows.shape[1]:
        axes, triangle = torch.linalg.qr(rows)
        return torch.linalg.solve_triangular(triangle, axes.T, upper=True), rows.shape[1]
    axes, triangle = factors
    # C v = y for y that sums to 0: the first K - 1 equations say it all, and with C[:-1]ᵀ = QR, v = Q R⁻ᵀ y[:-1].
    center = torch.eye(count).to(rows) - 1 / count
    return axes @ torch.linalg.solve_triangular(triangle.T, center[:-1], upper=False), count - 1


def _full_rank(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Basis (d, rank) and triangle if the rank is as large as can be, else None: a QR takes a tenth of an SVD's time.

    Centered rows sum to 0, so that the last one is left out.
    """
    independent = rows[:-1]
    wide = independent.shape[0] <= independent.shape[1]
    axes, triangle = torch.linalg.qr(independent.T if wide else independent, mode="reduced" if wide else "r")
    diagonal = triangle.diagonal().abs()
    # Far from the floor, as a triangle's diagonal shows a small singular value only within a factor; in doubt, the SVD.
    if len(diagonal) and float(diagonal.min()) <= 1e4 * _floor(rows) * float(diagonal.max()):
        return None
    return (axes if wide else torch.eye(rows.shape[1]).to(rows)), triangle


def _floor(rows: Tensor) -> float:
    return max(rows.shape) * torch.finfo(torch.float64).eps
