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
COLUMNS = 4  # heads side by side
LINES = 20  # classes that get a line each
RISING = 5  # of more classes, those whose value rises most


@dataclass(frozen=True)
class Minimizers:
    """``norm`` and ``projection`` (classes, len(smoothing)) of one head's minimizers.

    ``closed_form`` (len(smoothing),) or None.
    """

    norm: Array
    projection: Array
    closed_form: Array | None = None


@style.styled
def draw(smoothing: Array, heads: Mapping[str, Minimizers]) -> Figure:
    """Per head two panels: norm of the minimizer over smoothing, and under it its component along w_c - mean(w).

    Each line is a class, relative to its value at the least smoothing; a norm that rises is drawn in vermilion. Of more
    than `LINES` classes the median, a band of nine tenths of them, and those that rise most. The ETF's closed form is
    dashed. The lower row can never rise (convexity); the upper one can, when biases are large.
    """
    columns = min(COLUMNS, len(heads))
    blocks = -(-len(heads) // columns)
    figure = Figure(figsize=(style.WIDTH, 3.3 * blocks + 0.2))
    grid = figure.subplots(2 * blocks, columns, sharex=True, squeeze=False)
    for place in range(blocks * columns):
        upper, lower = (grid[2 * (place // columns) + k, place % columns] for k in (0, 1))
        if place >= len(heads):
            upper.set_axis_off()
            lower.set_axis_off()
            continue
        name, head = list(heads.items())[place]
        for axes, values, zero in ((upper, head.norm, 1), (lower, head.projection, 0)):
            scale = np.abs(values[:, :1])
            relative = np.divide(values, scale, out=np.full_like(values, np.nan), where=scale > 0)
            climbs = np.nanmax(np.diff(relative), axis=1, initial=0.0)
            rising = np.flatnonzero(climbs > 1e-6)
            falling = np.flatnonzero(climbs <= 1e-6)
            if len(relative) > LINES:
                low, middle, high = np.nanpercentile(relative, [5, 50, 95], axis=0)
                axes.fill_between(smoothing, low, high, color="#0072b2", alpha=0.2, lw=0)
                axes.plot(smoothing, middle, color="#0072b2", lw=1.4)
                rising, falling = rising[np.argsort(-climbs[rising])[:RISING]], falling[:0]
            for line in relative[falling]:
                axes.plot(smoothing, line, color="#0072b2", lw=0.9, alpha=0.85)
            for line in relative[rising]:
                axes.plot(smoothing, line, color="#d55e00", lw=1.4, alpha=0.85)
            axes.axhline(zero, color=style.MUTED, lw=0.6, ls=":")
        if head.closed_form is not None:
            upper.plot(smoothing, head.closed_form / head.closed_form[0], color=style.INK, ls="--", lw=1.2)
        upper.set_title(name, fontsize=8)
        lower.set_xlabel("smoothing")
        lower.tick_params(labelbottom=True)
        if place % columns == 0:
            upper.set_ylabel("‖v*‖, relative")
            lower.set_ylabel("⟨v*, w_c − w̄⟩, relative")
    for first in (0, 1):  # the same axis for all norms, and for all projections
        panels = [axes for axes in grid[first::2].flat if axes.axison]
        low, high = (extreme(axes.get_ylim()[k] for axes in panels) for k, extreme in ((0, min), (1, max)))
        for axes in panels:
            axes.set_ylim(low, high)
    figure.align_ylabels(list(grid[:, 0]))
    return figure


def rising(head: Minimizers, tolerance: float = 1e-6) -> tuple[int, int]:
    """How many classes' norms, and projections, rise anywhere (relative to their size)."""

    def count(values: Array) -> int:
        return int((np.diff(values, axis=1) > tolerance * np.abs(values).max(axis=1, keepdims=True)).any(axis=1).sum())

    return count(head.norm), count(head.projection)
