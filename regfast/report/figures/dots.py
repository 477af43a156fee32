"""Estimates with intervals, one row each: which measure predicts robustness, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from regfast.report import style

Estimates = Mapping[str, tuple[float, float, float]]


@style.styled
def draw(panels: Mapping[str, Mapping[str, Estimates]], xlabel: str, rows: Sequence[str]) -> Figure:
    """One panel per key of ``panels``; in it ``{regularizer: {row: (estimate, low, high)}}`` as dots with intervals.

    A dot whose interval leaves out 0 is filled. Rows are ``rows``, from the top.
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(style.WIDTH, 0.9 + 0.13 * len(rows) * max(len(names), 2)))
    axes_row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    step = 0.78 / max(len(names), 1)
    for axes, (title, estimates) in zip(axes_row, panels.items(), strict=True):
        for k, name in enumerate(names):
            tone = style.color(name, names)
            for place, row in enumerate(rows):
                if row not in estimates.get(name, {}):
                    continue
                middle, low, high = estimates[name][row]
                y = place + (k - (len(names) - 1) / 2) * step
                axes.plot([low, high], [y, y], color=tone, lw=1.2, solid_capstyle="butt")
                axes.plot(
                    middle,
                    y,
                    marker=style.marker(name, names),
                    color=tone,
                    ms=4.2,
                    mfc=style.PAPER if low <= 0 <= high else tone,
                )
        axes.axvline(0, color=style.MUTED, lw=0.8)
        for place in range(1, len(rows)):
            axes.axhline(place - 0.5, color=style.GRID, lw=0.5)
        axes.grid(False, axis="y")
        axes.set_title(title, fontsize=7.5)
    figure.supxlabel(xlabel, fontsize=8)
    axes_row[0].set_yticks(range(len(rows)), rows)
    axes_row[0].set_ylim(len(rows) - 0.5, -0.5)
    handles = [
        Line2D([], [], marker=style.marker(n, names), color=style.color(n, names), label=style.label(n)) for n in names
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(names)))
    return figure
