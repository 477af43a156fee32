"""Attack success rate over the perturbation size, one line per regularizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from regfast.report import style

Array = npt.NDArray[Any]


@style.styled
def draw(eps: Array, rates: Mapping[str, Array], xlabel: str = "ε", pixels: bool = True) -> Figure:
    """``rates`` maps a regularizer to its ASR, (seeds, len(eps)); the band spans the seeds, the line is their mean.

    ``pixels`` adds a second axis in 255ths, the unit that linf budgets are usually given in.
    """
    names = list(rates)
    figure = Figure(figsize=(0.62 * style.WIDTH, 2.9))
    axes = figure.subplots()
    for name, rate in rates.items():
        tone = style.color(name, names)
        if len(rate) > 1:
            axes.fill_between(eps, rate.min(axis=0), rate.max(axis=0), color=tone, alpha=0.15, lw=0)
        axes.plot(eps, rate.mean(axis=0), color=tone, marker=style.marker(name, names), label=style.label(name))
    axes.set(xlabel=xlabel, ylabel="attack success rate", ylim=(-0.02, 1.02), xlim=(0, float(eps.max()) * 1.02))
    axes.xaxis.set_major_formatter("{x:g}")
    if pixels:
        second = axes.secondary_xaxis("top", functions=(_to_255ths, _from_255ths))
        second.set_xlabel("ε in 255ths of the pixel range", color=style.MUTED, fontsize=7)
        second.tick_params(labelcolor=style.MUTED)
    axes.legend(loc="lower right")
    return figure


def smallest_eps(eps: Array, rate: Array, level: float = 0.5) -> float:
    """Where the ASR first reaches ``level``, interpolated linearly; NaN if it never does."""
    reached = np.flatnonzero(rate >= level)
    if not len(reached):
        return float("nan")
    k = int(reached[0])
    if k == 0:
        return float(eps[0])
    return float(np.interp(level, rate[k - 1 : k + 1], eps[k - 1 : k + 1]))


def _to_255ths(eps: Any) -> Any:
    return eps * 255


def _from_255ths(levels: Any) -> Any:
    return levels / 255
