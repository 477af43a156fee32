"""Training curves: how loss, RMS and cosine move with the epochs, mean and band over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from regfast.report import style

Array = npt.NDArray[Any]


@style.styled
def draw(epochs: Mapping[str, Array], curves: Mapping[str, Mapping[str, Array]], columns: int = 3) -> Figure:
    """One panel per measure: ``curves[measure][regularizer]`` (seeds, epochs) over ``epochs[regularizer]``.

    The line is the mean over seeds, the band spans them.
    """
    names = list(epochs)
    columns = min(columns, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(style.WIDTH, 0.45 + 1.75 * rows))
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (measure, lines) in zip(panels.flat, curves.items(), strict=False):
        for name, values in lines.items():
            tone = style.color(name, names)
            every = max(1, len(epochs[name]) // 8)
            if len(values) > 1:
                axes.fill_between(epochs[name], values.min(axis=0), values.max(axis=0), color=tone, alpha=0.15, lw=0)
            axes.plot(
                epochs[name],
                values.mean(axis=0),
                color=tone,
                marker=style.marker(name, names),
                markevery=every,
                label=style.label(name),
            )
        axes.set_ylabel(measure)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in panels.flat[len(curves) :]:
        axes.set_axis_off()
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(names)))
    figure.align_ylabels(list(panels[:, 0]))
    return figure
