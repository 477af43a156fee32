"""Every effect against hard labels in one picture: a panel a measure, a row a regularizer."""

from __future__ import annotations

from matplotlib.figure import Figure

from regfast.report import style
from regfast.report.claims import Verdict

PANELS = {
    "rms": "feature RMS",
    "cosine_in_span": "cosine, in-span part",
    "ece": "ECE",
    "asr_pgd_linf_weak": "ASR, weak PGD",
    "asr_pgd_linf_strong": "ASR, strong PGD",
}


@style.styled
def draw(verdicts: list[Verdict], columns: dict[str, str]) -> Figure:
    """Effects with 95 % intervals; a dot is filled where the interval leaves out 0.

    `columns`: which measure of the verdicts stands for each of `PANELS`.
    """
    names = list(dict.fromkeys(verdict.regularizer for verdict in verdicts))
    figure = Figure(figsize=(style.WIDTH, 0.8 + 0.2 * len(names)))
    row = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (column, title) in zip(row, PANELS.items(), strict=True):
        for verdict in verdicts:
            if verdict.measure != columns[column]:
                continue
            place, tone = names.index(verdict.regularizer), style.color(verdict.regularizer, names)
            axes.plot([verdict.low, verdict.high], [place, place], color=tone, lw=1.2, solid_capstyle="butt")
            fill = style.PAPER if verdict.low <= 0 <= verdict.high else tone
            axes.plot(verdict.effect, place, marker="o", color=tone, ms=4.5, mfc=fill)
        axes.axvline(0, color=style.MUTED, lw=0.8)
        axes.grid(False, axis="y")
        axes.set_title(title, fontsize=8)
    row[0].set_yticks(range(len(names)), [style.label(name) for name in names])
    row[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel("difference to hard labels, 95 % interval", fontsize=8)
    return figure
