"""The paper's Fig. 3: RMS × cosine by confidence, attack success per bin of cosine, and the reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from regfast.calibration.bins import reliability_bins
from regfast.report import style
from regfast.report.figures.bins import joined_rates, rates, shared_edges, thin
from regfast.report.results import attack_name

Array = npt.NDArray[Any]
POINTS = 700  # drawn per panel: more would hide one another
COSINE_BINS = 12
RELIABILITY_BINS = 15
LEAST = 10  # correctly classified samples that a point of the ASR stands for, at the least
MARKERS = {
    ("fgsm", "linf"): "^",
    ("pgd", "linf"): "o",
    ("autoattack", "linf"): "s",
    ("fgsm", "l2"): "<",
    ("pgd", "l2"): "D",
    ("autoattack", "l2"): "P",
}


@dataclass(frozen=True)
class Model:
    """One column of the figure: per-sample arrays of equal length (N,), and per attack which samples it flipped."""

    regularizer: str
    rms: Array
    cosine: Array
    confidence: Array
    correct: Array
    judged: Array  # which samples an attack's success counts of
    success: Mapping[str, Array]
    ece: float


@dataclass(frozen=True)
class AttackStyle:
    """How an attack's line is labeled and drawn."""

    id: str
    label: str
    marker: str = "o"
    strong: bool = True


def attack_style(attack: Mapping[str, Any]) -> AttackStyle:
    """The style of an attack of config.json: the marker says which attack and norm, a filled one that it is strong."""
    kind = (str(attack["attack"]).lower().partition("-")[0], str(attack.get("norm")))
    return AttackStyle(attack["id"], attack_name(attack), MARKERS.get(kind, "v"), attack.get("setting") != "weak")


@style.styled
def draw(
    models: Sequence[Model],
    attacks: Sequence[AttackStyle],
    cosine_label: str = "cosine to v_opt",
    rms_label: str = "feature RMS",
    with_reliability: bool = True,
) -> Figure:
    """One column per model, the same axes across columns.

    From the top: RMS over cosine colored by confidence; share of the correctly classified samples that each attack
    flips, per bin of cosine (bins are joined until each holds `LEAST`); histogram of the cosines; reliability diagram,
    bars as opaque as their share is large.
    Attacked samples are the correctly classified ones. Source: arXiv 2410.03999, Fig. 3.
    """
    if not models:
        raise ValueError("models: expected at least one")
    names = [m.regularizer for m in models]
    edges = shared_edges([m.cosine for m in models], COSINE_BINS)
    floor = min(float(np.min(m.confidence)) for m in models)
    norm = Normalize(np.floor(floor * 10) / 10, 1)
    heights = [1.45, 1.2, 0.65, 1.45][: 4 if with_reliability else 3]
    figure = Figure(figsize=(max(style.WIDTH, 1.75 * len(models)), 0.95 + 1.2 * sum(heights)))
    grid = figure.subplots(
        len(heights), len(models), sharex="row", sharey="row", squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    top = max(float(np.nanpercentile(m.rms, 99.5)) for m in models)
    for column, model in enumerate(models):
        tone = style.color(model.regularizer, names)
        scatter, asr, histogram = grid[:3, column]
        scatter.set_title(style.label(model.regularizer), color=tone, fontweight="bold")

        shown = thin(len(model.rms), POINTS)
        points = scatter.scatter(
            model.cosine[shown],
            model.rms[shown],
            c=model.confidence[shown],
            cmap=style.CONFIDENCE,
            norm=norm,
            s=7,
            linewidths=0.2,
            edgecolors=style.MUTED,
        )

        for attack in attacks:
            asr.plot(
                *asr_over_cosine(model, attack.id, edges),
                color=tone,
                marker=attack.marker,
                ls="-" if attack.strong else (0, (2.5, 1.5)),
                markerfacecolor=tone if attack.strong else style.PAPER,
                lw=1.1,
            )

        if attacks and not asr.lines[0].get_xdata().size:
            nothing(asr)
        count, _ = rates(model.cosine, model.correct, edges)
        middle = (edges[:-1] + edges[1:]) / 2
        histogram.bar(middle, count / len(model.cosine), width=np.diff(edges), color=tone, alpha=0.75, lw=0)

    for axes in (*grid[0], *grid[1], *grid[2]):
        axes.set_xlim(edges[0] - 0.02, edges[-1] + 0.02)
        axes.xaxis.set_major_formatter("{x:g}")
    for axes in (*grid[0], *grid[1]):
        axes.tick_params(labelbottom=False)
    for axes in grid[2]:
        axes.set_xlabel(cosine_label)
    grid[0, 0].set(ylabel=rms_label, ylim=(0, top * 1.08))
    grid[1, 0].set(ylabel="ASR per bin", ylim=(-0.03, 1.05))
    grid[2, 0].set(ylabel="share")
    if with_reliability:
        _reliability(grid[3], models)
    figure.colorbar(points, ax=list(grid[0]), label="confidence", aspect=12, pad=0.01)
    if attacks:
        figure.legend(
            handles=attack_handles(attacks),
            loc="outside lower center",
            ncols=2,
            title="attack success rate (ASR), second row",
            title_fontsize=7.5,
        )
    figure.align_ylabels(grid[:, 0])
    return figure


def _reliability(row: Sequence[Axes], models: Sequence[Model]) -> None:
    bars = [reliability_bins(m.confidence, m.correct, RELIABILITY_BINS) for m in models]
    densest = max(float(b.counts.max()) / len(m.confidence) for b, m in zip(bars, models, strict=True))
    for axes, model, bins in zip(row, models, bars, strict=True):
        tone = style.color(model.regularizer, [m.regularizer for m in models])
        axes.set_title(f"ECE {model.ece:.3f}", fontsize=8, pad=3)
        axes.plot([0, 1], [0, 1], color=style.MUTED, lw=0.8, ls="--")
        share = bins.counts / len(model.confidence)
        for k in np.flatnonzero(share):
            axes.bar(
                (k + 0.5) / RELIABILITY_BINS,
                bins.accuracy[k],
                width=0.88 / RELIABILITY_BINS,
                color=tone,
                lw=0,
                alpha=0.15 + 0.85 * float(share[k]) / densest,
            )
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    row[0].set_ylabel("accuracy")


def asr_over_cosine(model: Model, attack: str, edges: Array) -> tuple[Array, Array]:
    """Cosine and ASR of the points of one attack's line: bins joined until each holds `LEAST` judged samples."""
    return joined_rates(model.cosine[model.judged], model.success[attack][model.judged], edges, LEAST)


def nothing(axes: Axes) -> None:
    """Say in a panel of ASRs why it is empty."""
    text = f"fewer than {LEAST} correct\nsamples were attacked"
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color=style.MUTED, transform=axes.transAxes)


def attack_handles(attacks: Sequence[AttackStyle]) -> list[Line2D]:
    """Legend entries for ``attacks`` in neutral ink: the columns have the regularizers' colors."""
    return [
        Line2D(
            [],
            [],
            color=style.INK,
            marker=a.marker,
            lw=1.1,
            ls="-" if a.strong else (0, (2.5, 1.5)),
            markerfacecolor=style.INK if a.strong else style.PAPER,
            label=a.label,
        )
        for a in attacks
    ]
