"""How the native ops' schemas (csrc/registration.cpp) take numbers that may be tensors, and what they encode."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regfast.ops.target import Target

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
NORMS = {"linf": 0, "l2": 1, "l1": 2}
BACKWARDS = {"auto": 0, "store": 1, "recompute": 2}


def code(codes: dict[str, int], name: str, value: str) -> int:
    """The op's number for `value`.

    Raises:
        ValueError: if there is none.
    """
    try:
        return codes[value]
    except KeyError:
        raise ValueError(f"{name} must be one of {', '.join(codes)}, got {value!r}") from None


def split(value: float | Tensor) -> tuple[Tensor | None, float]:
    """(tensor, 0.0) or (None, number)."""
    return (value, 0.0) if isinstance(value, Tensor) else (None, value)


def parts(target: Target) -> tuple[Any, ...]:
    """The target's arguments in the schemas of the losses; `split` by hand, as small losses wait for it."""
    lam, smoothing = target.lam, target.smoothing
    lams, smoothings = isinstance(lam, Tensor), isinstance(smoothing, Tensor)
    return (
        target.first,
        target.second,
        lam if lams else None,
        0.0 if lams else lam,
        target.dense,
        smoothing if smoothings else None,
        0.0 if smoothings else smoothing,
        target.class_weight,
        target.sample_weight,
        target.ignore_index,
        REDUCTIONS[target.reduction],
        target.index_target,
        target.z_loss,
    )
