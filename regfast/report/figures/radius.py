"""How much the choice of the radius r of v_opt matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from regfast.report import style

Array = npt.NDArray[Any]


@style.styled
def draw(
    radius: Array, angles: Mapping[str, Array], limits: Mapping[str, Array], cosines: Mapping[str, Array]
) -> Figure:
    """Left: angle of v_opt(r) to its direction at r → 0, in degrees. Right: mean cosine of the features with v_opt(r).

    ``radius`` is in units of the default one. ``angles[regularizer]`` and ``cosines[regularizer]`` are (classes,
    len(radius)), angles in radians; ``limits[regularizer]`` (classes,), where it is known, the angle of the max-margin
    direction (r → ∞), a marker at the right edge.
    Lines are medians over classes, bands run from the lowest to the highest class.
    """
    names = list(angles)
    figure = Figure(figsize=(style.WIDTH, 2.7))
    left, right = figure.subplots(1, 2)
    for axes, table, factor in ((left, angles, 180 / np.pi), (right, cosines, 1.0)):
        for name in names:
            tone, values = style.color(name, names), table[name] * factor
            axes.fill_between(radius, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=tone, alpha=0.1, lw=0)
            axes.plot(
                radius,
                np.nanmedian(values, axis=0),
                color=tone,
                marker=style.marker(name, names),
                label=style.label(name),
            )
        axes.axvline(1, color=style.MUTED, lw=0.8, ls=":")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("radius r, in units of the default one")
    edge = float(radius.max()) * 1.5
    for name, limit in limits.items():
        left.plot(
            edge,
            np.nanmedian(limit) * 180 / np.pi,
            marker=style.marker(name, names),
            ms=6,
            mfc="none",
            color=style.color(name, names),
            clip_on=False,
        )
    if limits:
        left.text(edge, 1.01, "r → ∞", ha="center", fontsize=7, color=style.MUTED, transform=left.get_xaxis_transform())
    left.set_ylabel("angle to the r → 0 direction (°)")
    right.set_ylabel("mean cosine")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(names)))
    return figure
