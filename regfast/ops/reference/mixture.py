"""A target of classes as what the loss needs of it per row: classes, their coefficients, and an even spread."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.ops.reference.rows import known


class Mixture(NamedTuple):
    """`q = Σ coefficient · e_class + spread`, with smoothing and class weights in the coefficients."""

    parts: list[tuple[Tensor, Tensor]]  # (classes (B,) in range, coefficients (B,))
    spread: Tensor | None  # (1, K), None without smoothing
    mass: Tensor  # (B,) Σ q
    share: Tensor  # (B,) the row's part in the denominator of the mean, 0 where ignored
    ignored: Tensor  # (B,) bool
    judged: Tensor  # (B,) bool: neither ignored nor out of range
    true: Tensor  # (B,) true class, in range


def smoothing_row(smoothing: float | Tensor, class_weight: Tensor | None, classes: int, like: Tensor) -> Tensor | None:
    """The (1, K) row `s/K · class_weight` in the dtype of `like`; None if s is the number 0."""
    if not isinstance(smoothing, Tensor) and not smoothing:
        return None
    row = torch.full((1, classes), 1 / classes, dtype=like.dtype, device=like.device) * smoothing
    return row if class_weight is None else row * class_weight


def mixture(
    first: Tensor,
    second: Tensor | None,
    weight: float | Tensor,
    smoothing: float | Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    index_target: bool,
    classes: int,
    like: Tensor,
) -> Mixture:
    """The mixture in the dtype and on the device of `like`; arguments as in `regfast.ops.soft_cross_entropy`.

    Raises:
        IndexError: see `known`.
    """
    ignored = first == ignore_index
    judged = known(first, classes, "target", ignore_index) & ~ignored
    true = label = torch.where(judged, first, 0)
    ones = torch.ones(len(first), dtype=like.dtype, device=like.device)
    mixed = [(label, ones)]
    if second is not None:
        partner = torch.where(ignored, 0, second)  # the partner of an ignored row is not looked at
        judged = judged & known(partner, classes, "second")
        partner = torch.where(judged, partner, 0)
        mix = ones * (weight.to(like.device, like.dtype) if isinstance(weight, Tensor) else weight)
        mixed = [(label, mix), (partner, 1 - mix)]
        true = torch.where(mix < 0.5, partner, label)
    parts = []
    for index, coefficient in mixed:
        coefficient = coefficient * (1 - smoothing)
        parts.append((index, coefficient if class_weight is None else coefficient * class_weight[index]))
    spread = smoothing_row(smoothing, class_weight, classes, like)
    mass = sum((coefficient for _, coefficient in parts), torch.zeros_like(ones))
    mass = mass if spread is None else mass + spread.sum()
    share = class_weight[label] if index_target and class_weight is not None else ones
    return Mixture(parts, spread, mass, torch.where(ignored, 0.0, share), ignored, judged, true)
