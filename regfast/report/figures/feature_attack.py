"""Attacks on the features themselves: success over the radius, against the exact distance's curve above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from regfast.report import style

Array = npt.NDArray[Any]
POINTS = 80  # radii a line is drawn at


@dataclass(frozen=True)
class Radii:
    """Per seed the radius at which each correct sample falls, (n,): to multi-step PGD, and to an exact attack."""

    attack: Sequence[Array]
    exact: Sequence[Array]


def success(radii: Sequence[Array], eps: Array) -> Array:
    """Share of the samples that fall within each of ``eps`` (E,), a row a seed; NaN for a seed without samples."""
    return np.stack(
        [np.searchsorted(np.sort(r), eps, side="right") / len(r) if len(r) else eps * np.nan for r in radii]
    )


@style.styled
def draw(panels: Mapping[str, Mapping[str, Radii]], attack: str, marks: Mapping[str, float] | None = None) -> Figure:
    """One panel per unit of the radius; in it per regularizer a solid line for ``attack``, a dashed one for the bound.

    Lines are means over seeds, bands span them. ``marks`` is the radius in each panel at which verdicts are given.
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(style.WIDTH, 3.1))
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (xlabel, models) in zip(row, panels.items(), strict=True):
        pooled = np.concatenate([r for m in models.values() for r in (*m.attack, *m.exact)])
        finite = pooled[np.isfinite(pooled)]
        top = float(np.percentile(finite, 97)) if len(finite) else 1.0
        eps = np.linspace(0, top, POINTS)
        for name, radii in models.items():
            tone = style.color(name, names)
            bound, reached = success(radii.exact, eps), success(radii.attack, eps)
            axes.plot(eps, bound.mean(axis=0), color=tone, lw=1.0, ls=(0, (3, 1.5)))
            axes.plot(
                eps, reached.mean(axis=0), color=tone, marker=style.marker(name, names), markevery=POINTS // 8, lw=1.4
            )
            if len(reached) > 1:
                axes.fill_between(eps, reached.min(axis=0), reached.max(axis=0), color=tone, alpha=0.12, lw=0)
        if marks:
            axes.axvline(marks[xlabel], color=style.MUTED, lw=0.8, ls=":")
        axes.set(xlabel=xlabel, xlim=(0, top), ylim=(-0.02, 1.02))
    row[0].set_ylabel("attack success rate")
    handles = [
        Line2D([], [], color=style.color(n, names), marker=style.marker(n, names), label=style.label(n)) for n in names
    ]
    handles += [
        Line2D([], [], color=style.INK, lw=1.4, label=attack),
        Line2D([], [], color=style.INK, lw=1.0, ls=(0, (3, 1.5)), label="exact: no attack does better"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
