"""Square tables as heat maps with their numbers: whose norms with whose directions, whose attack on whose model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from regfast.report import style

Array = npt.NDArray[Any]


@style.styled
def draw(tables: Mapping[str, Array], names: Sequence[str], rows: str, columns: str) -> Figure:
    """One panel per table (R, R) over ``names``; the diagonal, where nothing is swapped, is framed.

    NaN cells stay empty.
    """
    labels = [style.label(n).replace("Label smoothing", "Smoothing").replace("Hard labels", "Hard") for n in names]
    figure = Figure(figsize=(style.WIDTH, style.WIDTH / max(len(tables), 2) * 0.82 + 0.35))
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    shades = colormaps["cividis"]
    for number, (axes, (title, table)) in enumerate(zip(panels, tables.items(), strict=True)):
        finite = table[np.isfinite(table)]
        norm = Normalize(float(finite.min()), float(finite.max()) or 1.0) if len(finite) else Normalize(0, 1)
        axes.imshow(table, cmap=shades, norm=norm, aspect="auto")
        for i, j in np.ndindex(*table.shape):
            if np.isfinite(table[i, j]):
                light = sum(shades(norm(table[i, j]))[:3]) > 1.5
                axes.text(
                    j,
                    i,
                    f"{table[i, j]:.3g}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="#000001" if light else "#fefefe",
                )
            if i == j:
                axes.add_patch(_frame(i))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title(title, fontsize=8)
        axes.set_xticks(range(len(names)), labels, rotation=30, ha="right")
        axes.set_yticks(range(len(names)), labels if number == 0 else [""] * len(names))
        axes.set_xlabel(columns)
    panels[0].set_ylabel(rows)
    return figure


def _frame(place: int) -> Rectangle:
    return Rectangle((place - 0.47, place - 0.47), 0.94, 0.94, fill=False, edgecolor="#fefefe", lw=1.2)
