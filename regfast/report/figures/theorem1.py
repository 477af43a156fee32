"""Theorem 1: how the minimal-loss feature moves with the amount of smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from regfast.report import style

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Minimisers:
    """``norm`` and ``projection`` (classes, len(smoothing)) of one head's minimisers.

    ``closed_form`` (len(smoothing),) or None.
    """

    norm: Array
    projection: Array
    closed_form: Array | None = None


@style.styled
def draw(smoothing: Array, heads: Mapping[str, Minimisers]) -> Figure:
    """Per head a column: norm of the minimiser over smoothing above, its component along w_c - mean(w) below.

    Each line is a class, relative to its value at the least smoothing; a norm that rises is drawn in vermilion. The
    ETF's closed form is dashed. The lower row can never rise (convexity); the upper one can, when biases are large.
    """
    figure = Figure(figsize=(max(style.WIDTH, 1.8 * len(heads)), 3.6))
    grid = figure.subplots(2, len(heads), sharex=True, sharey="row", squeeze=False)
    for column, (name, head) in enumerate(heads.items()):
        for axes, values in zip(grid[:, column], (head.norm, head.projection), strict=True):
            scale = np.abs(values[:, :1])
            relative = np.divide(values, scale, out=np.full_like(values, np.nan), where=scale > 0)
            for line in relative:
                rises = bool((np.diff(line) > 1e-6).any())
                axes.plot(
                    smoothing, line, color="#d55e00" if rises else "#0072b2", lw=1.4 if rises else 0.9, alpha=0.85
                )
            axes.axhline(0 if axes is grid[1, column] else 1, color=style.MUTED, lw=0.6, ls=":")
        if head.closed_form is not None:
            grid[0, column].plot(smoothing, head.closed_form / head.closed_form[0], color=style.INK, ls="--", lw=1.2)
        grid[0, column].set_title(name, fontsize=8)
        grid[1, column].set_xlabel("smoothing")
    grid[0, 0].set_ylabel("‖v*‖, relative")
    grid[1, 0].set_ylabel("⟨v*, w_c − w̄⟩, relative")
    figure.align_ylabels(list(grid[:, 0]))
    return figure


def rising(head: Minimisers, tolerance: float = 1e-6) -> tuple[int, int]:
    """How many classes' norms, and projections, rise anywhere (relative to their size)."""

    def count(values: Array) -> int:
        return int((np.diff(values, axis=1) > tolerance * np.abs(values).max(axis=1, keepdims=True)).any(axis=1).sum())

    return count(head.norm), count(head.projection)
