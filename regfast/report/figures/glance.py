"""The paper's Fig. 3 in small: all models in one column of panels, for the first screen of a page and a phone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from regfast.calibration.bins import reliability_bins
from regfast.report import style
from regfast.report.figures.bins import shared_edges, thin
from regfast.report.figures.representation import (
    COSINE_BINS,
    LEAST,
    RELIABILITY_BINS,
    AttackStyle,
    Model,
    asr_over_cosine,
    nothing,
)

POINTS = 150  # drawn per model


@style.styled
def draw(models: Sequence[Model], attack: AttackStyle | None) -> Figure:
    """From the top: RMS over cosine, the large mark at the medians; ASR of ``attack`` per bin of cosine; accuracy over
    confidence. Bins of the second are joined until each holds `LEAST` samples; those of the third with fewer are left
    out.
    """
    names = [m.regularizer for m in models]
    heights = [1.5, *([1.0] if attack else []), 1.0]
    figure = Figure(figsize=(style.COLUMN, 0.5 + 0.16 * (len(names) // 2) + 1.42 * sum(heights)))
    panels = figure.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights})
    edges = shared_edges([m.cosine for m in models], COSINE_BINS)
    for model in models:
        line: dict[str, Any] = {
            "color": style.color(model.regularizer, names),
            "marker": style.marker(model.regularizer, names),
        }
        _cloud(panels[0], model, line)
        if attack:
            panels[1].plot(*asr_over_cosine(model, attack.id, edges), **line, lw=1.2)
        bins = reliability_bins(model.confidence, model.correct, RELIABILITY_BINS)
        enough = bins.counts >= LEAST
        panels[-1].plot(bins.confidence[enough], bins.accuracy[enough], **line, lw=1.2)
    top = max(float(np.nanpercentile(m.rms, 99.5)) for m in models)
    panels[0].set(ylabel="feature RMS", ylim=(0, 1.08 * top), xlabel="" if attack else "cosine to v_opt")
    for axes in panels[:-1]:
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_formatter("{x:g}")
    if attack:
        if not any(line.get_xdata().size for line in panels[1].lines):
            nothing(panels[1])
        panels[1].set(ylabel="ASR", ylim=(-0.03, 1.05), xlabel="cosine to v_opt")
    panels[-1].plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls="--", zorder=1)
    panels[-1].set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.03))
    handles = [
        Line2D([], [], marker=style.marker(n, names), color=style.color(n, names), label=style.label(n)) for n in names
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    figure.align_ylabels(list(panels))
    return figure


def _cloud(axes: Axes, model: Model, line: dict[str, Any]) -> None:
    shown = thin(len(model.rms), POINTS)
    axes.scatter(model.cosine[shown], model.rms[shown], s=5, c=line["color"], alpha=0.35, linewidths=0)
    middle = float(np.nanmedian(model.cosine)), float(np.nanmedian(model.rms))
    axes.plot(*middle, **line, ms=8, mec=style.PAPER, mew=1.2, ls="none", zorder=5)
