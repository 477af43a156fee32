"""Checking arguments by a decorator: wrong ones get an error that names argument, value and what was expected.

For functions that take milliseconds: a call costs some 30 µs more. The losses check by hand.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "Kind",
    "array",
    "checked",
    "classes",
    "flags",
    "floats",
    "number",
    "one_of",
    "optional",
    "per_sample",
    "several",
    "whole",
]

P = ParamSpec("P")
R = TypeVar("R")
Sizes = dict[str, tuple[int, str]]  # of a dimension's letter: its size, and the argument that said so
Kind = Callable[[str, Any, Sizes], Any]  # (name, value, sizes) → the value to use; raises


def checked(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: each argument named here is checked by its kind, in this order, and replaced by what that gives.

    The letters of dimensions stand for the same size in all arguments of a call.

    >>> @checked(features=floats("B", "d"), labels=classes("B"))
    ... def mean(features, labels): ...
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
            call = signature.bind(*args, **kwargs)
            call.apply_defaults()
            sizes: Sizes = {}
            for name, kind in kinds.items():
                call.arguments[name] = kind(name, call.arguments[name], sizes)
            return function(*call.args, **call.kwargs)

        return wrapped

    return decorate


def floats(*shape: str | int, finite: bool = False, any_shape: bool = False, least: tuple[int, ...] = ()) -> Kind:
    """A floating tensor with these dimensions, letters or numbers, each of `least` size.

    `finite`: without NaN and infinities.
    """

    def check(name: str, value: Any, sizes: Sizes) -> Tensor:
        tensor = _dense(name, value, "a floating tensor")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be a floating tensor, got {tensor.dtype}")
        if not any_shape:
            _fits(name, tensor.shape, shape, sizes)
        if any(size < low for size, low in zip(tensor.shape, least, strict=False)):
            bounds = ", ".join(f"{letter} ≥ {low}" for letter, low in zip(shape, least, strict=False))
            raise ValueError(
                f"{name} must have shape ({', '.join(map(str, shape))}) with {bounds}, got {tuple(tensor.shape)}"
            )
        if finite and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} must be finite, got {int((~tensor.isfinite()).sum())} NaN or infinite entries")
        return tensor

    return check


def classes(rows: str, below: str | None = None, *, least: int = 0) -> Kind:
    """A tensor (rows,) of integers, given as int64; in 0 … `below` - 1 where that letter is given."""

    def check(name: str, value: Any, sizes: Sizes) -> Tensor:
        tensor = _dense(name, value, "an integer tensor")
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise TypeError(f"{name} must be an integer tensor, got {tensor.dtype}")
        _fits(name, tensor.shape, (rows,), sizes)
        tensor = tensor.long()
        if below is not None and tensor.numel() and below in sizes:
            low, high = int(tensor.min()), int(tensor.max())
            if low < least or high >= sizes[below][0]:
                raise IndexError(f"{name} must lie in 0 … {sizes[below][0] - 1}, got {low} … {high}")
        return tensor

    return check


def flags(rows: str) -> Kind:
    """A bool tensor (rows,)."""

    def check(name: str, value: Any, sizes: Sizes) -> Tensor:
        tensor = _dense(name, value, "a bool tensor")
        if tensor.dtype != torch.bool:
            raise TypeError(f"{name} must be a bool tensor, got {tensor.dtype}")
        _fits(name, tensor.shape, (rows,), sizes)
        return tensor

    return check


def array(*shape: str | int, finite: bool = False) -> Kind:
    """A tensor on any device, an array, or a list of numbers, with these dimensions; a tensor or array stays one."""

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if isinstance(value, Tensor):
            made: Any = _dense(name, value, "an array")
        else:
            try:
                made = np.asarray(value)
            except ValueError:
                made = np.asarray(None)
            if made.dtype.kind not in "biuf":
                raise TypeError(f"{name} must be a tensor or array of real numbers, got {_short(value)}")
        _fits(name, made.shape, shape, sizes)
        if finite and not bool((made.isfinite() if isinstance(made, Tensor) else np.isfinite(made)).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinite entries")
        return made

    return check


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Kind:
    """A finite real number in [low, high] (`above`: in (low, high]), NumPy's and 0-d tensors too; given as float."""

    def check(name: str, value: Any, sizes: Sizes) -> float:
        found = _scalar(value)
        if found is None:
            raise TypeError(f"{name} must be a number, got {_short(value)}")
        if not math.isfinite(found) or not low <= found <= high or (above and found == low):
            bounds = "finite" if (low, high) == (-math.inf, math.inf) else _bounds(low, high, above)
            raise ValueError(f"{name} must be {bounds}, got {value!r}")
        return float(found)

    return check


def whole(low: int = 0, high: int = 2**63 - 1, *, size: str | None = None) -> Kind:
    """An integer in [low, high], NumPy's and 0-d integer tensors too; given as int. `size`: of which dimension."""

    def check(name: str, value: Any, sizes: Sizes) -> int:
        found = _scalar(value)
        if found is None or not isinstance(found, int):
            raise TypeError(f"{name} must be an integer, got {_short(value)}")
        if not low <= found <= high:
            bounds = f"≥ {low}" if high == 2**63 - 1 and found < low else f"in [{low}, {high}]"
            raise ValueError(f"{name} must be an integer {bounds}, got {found}")
        if size is not None:
            sizes[size] = found, name
        return found

    return check


def several(kind: Kind) -> Kind:
    """A sequence, or a 1-d tensor or array, not empty, each entry of which is of `kind`; given as a list."""

    def check(name: str, value: Any, sizes: Sizes) -> list[Any]:
        if isinstance(value, Tensor) and (value.is_meta or value.layout != torch.strided):
            raise TypeError(f"{name} must be a sequence of numbers, got {_short(value)}")
        listed = value.tolist() if isinstance(value, Tensor | np.ndarray) else value
        if isinstance(listed, str) or not isinstance(listed, Sequence):
            raise TypeError(f"{name} must be a sequence of numbers, got {_short(value)}")
        if not len(listed):
            raise ValueError(f"{name} must have at least one entry, got none")
        return [kind(name, entry, sizes) for entry in listed]

    return check


def per_sample(rows: str, low: float = -math.inf) -> Kind:
    """A finite number of at least `low`, or a floating tensor (rows,) of such; given as it is."""

    def check(name: str, value: Any, sizes: Sizes) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return number(low)(name, value, sizes)
        tensor = floats(rows, finite=True)(name, value, sizes)
        if bool((tensor < low).any()):
            raise ValueError(f"{name} must be at least {low:g}, got {float(tensor.min()):g}")
        return tensor

    return check


def one_of(*choices: str) -> Kind:
    """One of these words."""

    def check(name: str, value: Any, sizes: Sizes) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be {' or '.join(choices)}, got {_short(value)}")
        return value

    return check


def optional(kind: Kind) -> Kind:
    """None, or of `kind`."""
    return lambda name, value, sizes: None if value is None else kind(name, value, sizes)


def _dense(name: str, value: Any, expected: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be {expected}, got {_short(value)}")
    if value.layout != torch.strided or value.is_meta or value.is_complex():
        what = "a meta tensor" if value.is_meta else "complex numbers" if value.is_complex() else str(value.layout)
        raise TypeError(f"{name} must be {expected} with its values in memory, got {what}")
    return value


def _fits(name: str, found: Sequence[int], shape: tuple[str | int, ...], sizes: Sizes) -> None:
    expected = [sizes[d][0] if d in sizes else d for d in (str(d) if isinstance(d, str) else d for d in shape)]
    wrong = len(found) != len(shape) or any(
        isinstance(e, int) and e != size for e, size in zip(expected, found, strict=False)
    )
    if wrong:
        said = {sizes[d][1] for d in shape if isinstance(d, str) and d in sizes}
        why = f" as {' and '.join(sorted(said))} {'is' if len(said) == 1 else 'are'}" if said else ""
        letters = ", ".join(map(str, expected)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"{name} must have shape ({letters}){why}, got {tuple(found)}")
    for letter, size in zip(shape, found, strict=True):
        if isinstance(letter, str):
            sizes.setdefault(letter, (size, name))


def _scalar(value: Any) -> int | float | None:
    """A real number, as Python has it; None for anything else, and for truth values."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = None if isinstance(value, Tensor) and value.is_meta else value.item()
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, float | np.floating) else None


def _bounds(low: float, high: float, above: bool = False) -> str:
    if high == math.inf:
        return f"{'above' if above else 'at least'} {low:g}"
    return f"in {'(' if above else '['}{low:g}, {high:g}]"


def _short(value: Any) -> str:
    """A value for a message: never long."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}…"
