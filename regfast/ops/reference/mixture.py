"""A target of classes as what the loss needs of it per row: classes, their coefficients, and an even spread."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.ops.reference.rows import in_range
from regfast.ops.target import Target


class Mixture(NamedTuple):
    """`q = Σ coefficient · e_class + spread`, with smoothing and class weights in the coefficients."""

    parts: list[tuple[Tensor, Tensor]]  # (classes (B,) in range, coefficients (B,))
    spread: Tensor | None  # (1, K), None without smoothing
    mass: Tensor  # (B,) Σ q
    share: Tensor  # (B,) the row's part in the denominator of the mean, 0 where ignored
    ignored: Tensor  # (B,) bool
    judged: Tensor  # (B,) bool: neither ignored nor out of range
    true: Tensor  # (B,) true class, in range


def widened(target: Target, like: Tensor) -> Target:
    """The target with λ, smoothing and weights in the dtype (λ and smoothing also on the device) of `like`."""
    lam, smoothing = (
        value.to(like.device, like.dtype) if isinstance(value, Tensor) else value
        for value in (target.lam, target.smoothing)
    )
    class_weight, sample_weight = (
        None if weight is None else weight.to(like.dtype) for weight in (target.class_weight, target.sample_weight)
    )
    changed = {"lam": lam, "smoothing": smoothing, "class_weight": class_weight, "sample_weight": sample_weight}
    # PyTorch 2.6 does not trace dataclasses.replace.
    return Target(**{**{name: getattr(target, name) for name in Target.__slots__}, **changed})


def smoothing_row(target: Target, classes: int, like: Tensor) -> Tensor | None:
    """The (1, K) row `s/K · class_weight` in the dtype of `like`; None if s is the number 0."""
    if not isinstance(target.smoothing, Tensor) and not target.smoothing:
        return None
    row = torch.full((1, classes), 1 / classes, dtype=like.dtype, device=like.device) * target.smoothing
    return row if target.class_weight is None else row * target.class_weight


def ignored_rows(target: Target) -> Tensor:
    """(B,) bool: rows of which `first` or `second` is to be ignored."""
    assert target.first is not None
    ignored = target.first == target.ignore_index
    return ignored if target.second is None else ignored | (target.second == target.ignore_index)


def mixture(target: Target, classes: int, like: Tensor) -> Mixture:
    """What the loss needs of a target of classes, `widened` to `like`.

    Raises:
        IndexError: see `in_range`.
    """
    first, class_weight = target.first, target.class_weight
    assert first is not None
    ignored = ignored_rows(target)
    judged = in_range(first, classes, "target", target.ignore_index) & ~ignored
    true = label = torch.where(judged, first, 0)
    ones = torch.ones(len(first), dtype=like.dtype, device=like.device)
    mixed = [(label, ones)]
    if target.second is not None:
        partner = torch.where(ignored, 0, target.second)  # the partner of an ignored row is not looked at
        judged = judged & in_range(partner, classes, "second")
        partner = torch.where(judged, partner, 0)
        mix = ones * target.lam
        mixed = [(label, mix), (partner, 1 - mix)]
        true = torch.where(mix < 0.5, partner, label)
    parts = []
    for index, coefficient in mixed:
        coefficient = coefficient * (1 - target.smoothing)
        parts.append((index, coefficient if class_weight is None else coefficient * class_weight[index]))
    spread = smoothing_row(target, classes, like)
    mass = sum((coefficient for _, coefficient in parts), torch.zeros_like(ones))
    mass = mass if spread is None else mass + spread.sum()
    share = class_weight[label] if target.index_target and class_weight is not None else ones
    return Mixture(parts, spread, mass, torch.where(ignored, 0.0, share), ignored, judged, true)
