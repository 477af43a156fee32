"""Smooth reliability diagrams: accuracy over confidence without bins, with a bootstrap band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from regfast.report import style

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Smooth:
    """One model's diagram: arrays (cells,), NaN where it has no data, and smECE with its interval."""

    confidence: Array
    accuracy: Array
    low: Array
    high: Array
    density: Array
    error: tuple[float, float, float]


@style.styled
def draw(models: Mapping[str, Smooth]) -> Figure:
    """One panel per regularizer: accuracy, its band, the diagonal, and the density of the confidences below."""
    names = list(models)
    figure = Figure(figsize=(max(style.WIDTH, 1.75 * len(names)), 2.9))
    grid = figure.subplots(
        2, len(names), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": [3, 1]}
    )
    for column, (name, model) in enumerate(models.items()):
        tone = style.color(name, names)
        top, bottom = grid[:, column]
        top.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls=(0, (4, 2)))
        top.fill_between(model.confidence, model.low, model.high, color=tone, alpha=0.2, lw=0)
        top.plot(model.confidence, model.accuracy, color=tone)
        top.set_title(f"smECE {model.error[0]:.3f}", fontsize=8)
        top.set_aspect("equal", adjustable="box")
        bottom.fill_between(model.confidence, 0, model.density, color=tone, alpha=0.6, lw=0)
        bottom.set(xlabel="confidence", yticks=[])
    grid[0, 0].set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    grid[1, 0].set(ylabel="density", ylim=(0, None))
    grid[1, 0].set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    handles = [Line2D([], [], color=style.color(n, names), label=style.label(n)) for n in names]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(names)))
    figure.align_ylabels(list(grid[:, 0]))
    return figure
