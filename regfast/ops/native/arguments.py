"""How the native ops' schemas (csrc/registration.cpp) take numbers that may be tensors, and what they encode."""

from __future__ import annotations

from torch import Tensor

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
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
