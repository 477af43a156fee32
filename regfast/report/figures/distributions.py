"""Distributions side by side: one column per condition, one row per regularizer, the same axes everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from regfast.report import style

Array = npt.NDArray[Any]


@style.styled
def draw(values: Mapping[str, Mapping[str, Array]], edges: Array, xlabel: str, origin: float = 0.0) -> Figure:
    """Histograms of ``values[column][regularizer]`` (N,) over ``edges``; NaN is left out.

    What lies outside counts in the first or last bin. The solid line is the mean, the dotted one ``origin``.
    """
    names = list(next(iter(values.values())))
    width = style.WIDTH if len(values) > 1 else 0.62 * style.WIDTH
    figure = Figure(figsize=(width, 0.75 + 0.55 * len(names)))
    panels = figure.subplots(len(names), len(values), sharex=True, sharey="col", squeeze=False)
    for column, (title, table) in enumerate(values.items()):
        tallest = 0.0
        for axes, name in zip(panels[:, column], names, strict=True):
            tone = style.color(name, names)
            finite = table[name][np.isfinite(table[name])]
            axes.axvline(origin, color=style.MUTED, lw=0.6, ls=":")
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            if len(finite):
                mean = float(finite.mean())
                share = np.histogram(np.clip(finite, edges[0], edges[-1]), edges)[0] / len(finite)
                tallest = max(tallest, float(share.max()))
                axes.stairs(share, edges, color=tone, alpha=0.7, fill=True)
                axes.axvline(float(np.clip(mean, edges[0], edges[-1])), color=tone, lw=1.6)
                left = mean > (edges[0] + edges[-1]) / 2  # the side where the bars are not
                axes.text(
                    0.01 if left else 0.99,
                    0.92,
                    f"mean {mean:.2f}".replace("-", "−"),
                    transform=axes.transAxes,
                    ha="left" if left else "right",
                    va="top",
                    fontsize=7,
                )
            if column == 0:
                axes.set_ylabel(style.label(name), color=tone, rotation=0, ha="right", va="center", fontweight="bold")
        panels[0, column].set_title(title, fontsize=7.5)
        panels[0, column].set_ylim(0, 1.5 * tallest or 1)  # room for the mean in words above the bars
        panels[-1, column].set(xlim=(edges[0], edges[-1]))
        panels[-1, column].locator_params(axis="x", nbins=4)
        panels[-1, column].xaxis.set_major_formatter("{x:g}")
    figure.supxlabel(xlabel, fontsize=8)
    return figure
