"""Where an attack moves the features: toward the origin, or across?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from regfast.report import style

Array = npt.NDArray[Any]


@style.styled
def draw(cosines: Mapping[str, Mapping[str, Array]], bins: int = 30) -> Figure:
    """Distribution of the cosine between the feature's displacement and the direction to the origin.

    ``cosines[attack][regularizer]`` is (N,). One column per attack, one row per regularizer, the same axes everywhere;
    the line is the mean. 1 is straight toward the origin, 0 is across, -1 outward.
    """
    names = list(next(iter(cosines.values())))
    figure = Figure(figsize=(style.WIDTH if len(cosines) > 1 else 0.62 * style.WIDTH, 0.75 + 0.55 * len(names)))
    panels = figure.subplots(len(names), len(cosines), sharex=True, sharey=True, squeeze=False)
    edges = np.linspace(-1, 1, bins + 1)
    for column, (attack, values) in enumerate(cosines.items()):
        for axes, name in zip(panels[:, column], names, strict=True):
            tone = style.colour(name, names)
            finite = values[name][np.isfinite(values[name])]
            axes.axvline(0, color=style.MUTED, lw=0.6, ls=":")
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            if len(finite):
                axes.stairs(np.histogram(finite, edges)[0] / len(finite), edges, color=tone, alpha=0.7, fill=True)
                axes.axvline(finite.mean(), color=tone, lw=1.6)
                left = finite.mean() > 0  # the side where the bars are not
                axes.text(
                    0.01 if left else 0.99,
                    0.92,
                    f"mean {finite.mean():.2f}".replace("-", "−"),
                    transform=axes.transAxes,
                    ha="left" if left else "right",
                    va="top",
                    fontsize=7,
                )
            if column == 0:
                axes.set_ylabel(style.label(name), color=tone, rotation=0, ha="right", va="center", fontweight="bold")
        panels[0, column].set_title(attack, fontsize=7.5)
        panels[-1, column].set(xlim=(-1, 1))
        panels[-1, column].set_xticks([-1, -0.5, 0, 0.5, 1], ["−1", "", "0", "", "1"])
    figure.supxlabel("cosine with the direction to the origin", fontsize=8)
    return figure
