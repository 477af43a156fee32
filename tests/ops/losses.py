"""The losses as tests like to call them: the parts of a `Target` as arguments of the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch

from regfast.ops import linear_soft_cross_entropy as linear
from regfast.ops import soft_cross_entropy as loss
from regfast.ops.target import Target

__all__ = [
    "check_rows_without_softmax", "linear_soft_cross_entropy", "of", "soft_cross_entropy", "soft_cross_entropy_stats",
]  # fmt: skip

_PARTS = {field.name for field in fields(Target)}


def _by_parts(function: Callable[..., Any], tensors: int = 1) -> Callable[..., Any]:
    """`function(tensor, …, target, …)` as a function of `tensors` tensors and the target's parts."""

    def call(*arguments: Any, **named: Any) -> Any:
        parts = {name: named.pop(name) for name in [*named] if name in _PARTS}
        return function(*arguments[:tensors], Target(*arguments[tensors:], **parts), **named)

    return call


def of(backend: str) -> SimpleNamespace:
    """One backend's own functions."""
    loss, linear = (
        import_module(f"regfast.ops.{backend}.{family}")
        for family in ("soft_cross_entropy", "linear_soft_cross_entropy")
    )
    return SimpleNamespace(
        soft_cross_entropy=_by_parts(loss.soft_cross_entropy),
        soft_cross_entropy_stats=_by_parts(loss.soft_cross_entropy_stats),
        linear_soft_cross_entropy=_by_parts(linear.linear_soft_cross_entropy, 3),
    )


soft_cross_entropy = _by_parts(loss.soft_cross_entropy)
soft_cross_entropy_stats = _by_parts(loss.soft_cross_entropy_stats)
linear_soft_cross_entropy = _by_parts(linear.linear_soft_cross_entropy, 3)


def check_rows_without_softmax(stats_of: Callable[..., Any], classes: int) -> None:
    """What `soft_cross_entropy_stats` says of rows with a logit NaN or +inf, or all -inf, ignored ones too."""
    rows = torch.randn(7, classes)
    rows[0, 0] = rows[1, -1] = torch.inf
    rows[2, 0] = rows[3, -1] = rows[4, -1] = torch.nan
    rows[4, 1] = torch.inf
    rows[5] = -torch.inf
    z, first = torch.cat((rows, rows)), torch.tensor([0] * 7 + [-100] * 7)
    for name in ("loss", "log_partition", "confidence", "entropy", "margin"):
        leaf = z.clone().requires_grad_()
        stats = stats_of(leaf, first, index_target=True)[1]
        value = getattr(stats, name)
        assert value[:6].isnan().all() and value[6].isfinite(), name
        assert (value[7:] == 0).all() if name == "loss" else value[7:13].isnan().all(), name
        assert stats.prediction.tolist() == [0, 0, 0, 0, 0, 0, int(z[6].argmax())] * 2
        (grad,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
        assert grad[:6].isnan().all() and grad[6].isfinite().all() and (grad[7:13] == 0).all(), name
