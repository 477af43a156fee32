"""Theorem 1 on a given head: how the optimal feature's length changes with label smoothing, and what always holds.

With b = 0 and equal weight norms the optimal feature under a soft label is shorter than under a harder one. In norm
that can fail (large biases); its component along w_c - mean(w) never grows with smoothing, whatever the head:
docs/mathematics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from regfast.checks import checked, classes, number, optional, several, whole
from regfast.representation.soft_minimizer import full_rank_inverse, smoothed_targets, soft_minimizer
from regfast.representation.span import LINEAR_HEAD, centered


class Theorem1(NamedTuple):
    """Minimizers over smoothing: row s for smoothing[s], column c for class c."""

    smoothing: Tensor  # (S,) float64, rising
    norm: Tensor  # (S, K) ‖v*‖; with `labels` a column for each of them
    projection: Tensor  # (S, K) ⟨v*, w_c - mean w⟩

    def norm_rises(self, tolerance: float = 1e-9) -> Tensor:
        """(S - 1, K) bool: where the norm grows from one smoothing to the next, so that the theorem fails in norm."""
        return _rises(self.norm, tolerance)

    def projection_rises(self, tolerance: float = 1e-9) -> Tensor:
        """(S - 1, K) bool: where the projection grows. Never, up to the solver's accuracy."""
        return _rises(self.projection, tolerance)


@checked(**LINEAR_HEAD, smoothing=several(number(0, 1)), ridge=number(0), labels=optional(classes("n", "K")))
def theorem1(
    weight: Tensor, bias: Tensor | None, smoothing: Sequence[float], *, ridge: float, labels: Tensor | None = None
) -> Theorem1:
    """Norm and projection of the minimizer of smoothed cross-entropy + ridge/2·‖v‖², for every class and smoothing.

    Args:
        weight: (K, d), bias: (K,) or None.
        smoothing: rising values in [0, 1].
        ridge: > 0 where smoothing holds 0; makes the hard label's minimizer finite. 1e-3 or less changes little.
        labels: (n,) int64 classes, where not all are asked for: each takes its own Newton solver, of order K³ a step.

    Raises:
        ValueError: smoothing that is empty or does not rise, and what `soft_minimizer` rejects.

    >>> found = theorem1(torch.eye(4), None, [0.0, 0.1, 0.3], ridge=1e-3)
    >>> found.norm.shape  # (smoothings, classes)
    torch.Size([3, 4])
    """
    levels = [float(level) for level in smoothing]
    if any(after <= before for before, after in pairwise(levels)):
        raise ValueError(f"smoothing must hold rising values, got {levels}")
    labels = torch.arange(len(weight)) if labels is None else labels
    targets = torch.cat([smoothed_targets(len(weight), level, labels) for level in levels])
    points = soft_minimizer(weight, bias, targets, ridge=ridge).view(len(levels), len(labels), -1)
    own = centered(weight)[labels.to(weight.device)]
    return Theorem1(torch.tensor(levels, dtype=torch.float64), points.norm(dim=2), (points * own).sum(dim=2))


@checked(num_classes=whole(2), dim=optional(whole(1)), weight_norm=number(0, above=True))
def simplex_etf(num_classes: int, dim: int | None = None, *, weight_norm: float = 1.0) -> Tensor:
    """Rows of a simplex equiangular tight frame, (K, d) float64: equal norms, pairwise cosines -1/(K-1), sum 0.

    Args:
        num_classes: K >= 2.
        dim: d >= K - 1, default K - 1; further dimensions are 0.
        weight_norm: > 0, of every row.

    Raises:
        ValueError: an argument out of its range.
    """
    dim = num_classes - 1 if dim is None else dim
    if dim < num_classes - 1:
        raise ValueError(f"dim must be at least num_classes - 1, {num_classes - 1}, got {dim}")
    # Row c of the triangle has the c-th axis and what it shares with the rows before: a Cholesky factor of the Gram
    # matrix, written out. Row k below axis j is -1/(K-1-j) of that axis's height.
    rows = torch.zeros(num_classes, dim, dtype=torch.float64)
    left = 1.0
    for axis in range(num_classes - 1):
        height = math.sqrt(left)
        rows[axis, axis] = height
        rows[axis + 1 :, axis] = -height / (num_classes - 1 - axis)
        left -= (height / (num_classes - 1 - axis)) ** 2
    return weight_norm * rows


@checked(num_classes=whole(2), weight_norm=number(0, above=True), smoothing=number(0, 1), ridge=number(0))
def etf_minimizer_norm(num_classes: int, weight_norm: float, smoothing: float, ridge: float = 0.0) -> float:
    """Closed form of ‖v*‖ for a simplex ETF of weight norm ω with b = 0.

    Without ridge (K-1)/(Kω)·log(1 + K(1-α)/α), infinite at α = 0; with ridge λ the root s of ωK/(K-1)·(q_c - p_c(s)) =
    λs, where p_c(s) = 1/(1 + (K-1)·exp(-ωsK/(K-1))), by bisection to the last bit.

    Raises:
        ValueError: K < 2, ω <= 0, smoothing outside [0, 1], ridge < 0.
    """
    rate = weight_norm * num_classes / (num_classes - 1)
    free = math.inf if smoothing == 0 else math.log1p(num_classes * (1 - smoothing) / smoothing) / rate
    if ridge == 0:
        return free
    true = 1 - smoothing + smoothing / num_classes
    low, high = 0.0, min(free, rate * true / ridge)
    while low < (middle := (low + high) / 2) < high:
        share = 1 / (1 + (num_classes - 1) * math.exp(-rate * middle))
        low, high = (middle, high) if rate * (true - share) > ridge * middle else (low, middle)
    return high


@checked(**LINEAR_HEAD)
def turning_smoothing(weight: Tensor, bias: Tensor | None) -> Tensor:
    """Smoothing beyond which the free minimizer's norm rises again, (K,) float64 in (0, 1]; 1 where it never does.

    With rank K - 1 the free minimizer is v*(α) = g·C⁺e_c - C⁺b with g = log(1 + K(1-α)/α), so its length falls with α
    as long as g > ⟨C⁺e_c, C⁺b⟩/‖C⁺e_c‖². Without bias that is always so, whatever the weights: there theorem 1 holds
    for every α > 0.

    Args:
        weight: (K, d) with centered rank K - 1. bias: (K,) or None.

    Raises:
        ValueError: a lower rank, shapes that do not fit.
    """
    inverse = full_rank_inverse(weight)
    shift = torch.zeros(len(inverse)).to(inverse) if bias is None else inverse @ bias.detach().to(inverse)
    turn = (inverse.T @ shift) / (inverse * inverse).sum(dim=0)
    return len(weight) / (len(weight) + torch.expm1(turn.clamp(min=0)))


def _rises(values: Tensor, tolerance: float) -> Tensor:
    return values[1:] > values[:-1] + tolerance * values[:-1].abs().clamp(min=1)
