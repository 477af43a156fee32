"""The losses as tests like to call them: the parts of a `Target` as arguments of the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from regfast.ops import linear_soft_cross_entropy as linear
from regfast.ops import soft_cross_entropy as loss
from regfast.ops.target import Target

__all__ = ["linear_soft_cross_entropy", "of", "soft_cross_entropy", "soft_cross_entropy_stats"]

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
