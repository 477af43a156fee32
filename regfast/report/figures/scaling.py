"""Temperature scaling against feature scaling: ECE over the scale, and predictions that change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from regfast.report import style

Array = npt.NDArray[Any]
LINES = {"temperature": ("-", "o"), "feature": ((0, (4, 1.5)), "D")}
NAMES = {"temperature": "logits times s (temperature 1/s)", "feature": "features times s"}


@style.styled
def draw(scales: Array, ece: Mapping[str, Mapping[str, Array]], changed: Mapping[str, Mapping[str, Array]]) -> Figure:
    """One column per regularizer. ``ece[regularizer][kind]`` and ``changed[…][…]`` are (seeds, len(scales)).

    Kinds: ``temperature`` (solid) and ``feature`` (dashed). Lines are means over seeds, bands span them, a marker is
    at each optimum. Temperature scaling never changes a prediction; feature scaling does, because the bias keeps its
    size.
    """
    names = list(ece)
    figure = Figure(figsize=(max(style.WIDTH, 1.75 * len(names)), 3.4))
    grid = figure.subplots(
        2, len(names), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [1.6, 1]}
    )
    for column, name in enumerate(names):
        tone = style.color(name, names)
        for kind, (line, marker) in LINES.items():
            for axes, values in ((grid[0, column], ece[name].get(kind)), (grid[1, column], changed[name].get(kind))):
                if values is None:
                    continue
                mean = values.mean(axis=0)
                axes.plot(scales, mean, color=tone, ls=line)
                if len(values) > 1:
                    axes.fill_between(scales, values.min(axis=0), values.max(axis=0), color=tone, alpha=0.12, lw=0)
                if axes is grid[0, column]:
                    best = int(np.argmin(mean))
                    axes.plot(scales[best], mean[best], marker=marker, ms=5, color=tone, mec=style.PAPER, mew=0.8)
        for axes in grid[:, column]:
            axes.axvline(1, color=style.MUTED, lw=0.6, ls=":")
            axes.set_xscale("log")
        grid[0, column].set_title(style.label(name), color=tone, fontweight="bold")
        ticks = [t for t in (0.01, 0.1, 0.25, 0.5, 1, 2, 4, 10, 100) if scales.min() <= t <= scales.max()]
        grid[1, column].set_xticks(ticks, [f"{t:g}" for t in ticks])
        grid[1, column].minorticks_off()
        grid[1, column].set_xlabel("scale s")
    grid[0, 0].set(ylabel="ECE", ylim=(0, None))
    grid[1, 0].set(ylabel="predictions\nchanged", ylim=(0, None))
    handles = [
        Line2D([], [], color=style.INK, ls=line, marker=marker, label=NAMES[kind])
        for kind, (line, marker) in LINES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, handlelength=4)
    figure.align_ylabels(list(grid[:, 0]))
    return figure
