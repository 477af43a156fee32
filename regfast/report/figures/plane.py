"""The paper's Fig. 1 and 4: decision regions and features in a two-dimensional representation space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from regfast.report import style
from regfast.report.figures.bins import thin
from regfast.representation.plane import confidence_contours

Array = npt.NDArray[Any]
GRID = 240  # points a side of the decision regions
POINTS = 400  # features drawn per panel
# Paul Tol's muted scheme and gray: ten colors told apart by every common color vision.
CLASSES = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255", "#aa4499", "#7f7f7f")


@dataclass(frozen=True)
class Plane:
    """One trained two-dimensional representation space. K classes, N features.

    ``weight`` (K, 2) and ``offset`` (K,) are the head, ``means`` (K, 2) the class means, ``centers`` (K, 2) v_opt,
    ``features`` (N, 2) with ``labels`` (N,); ``perturbed`` (N, 2) are the same features under attack, NaN or empty
    where there are none.
    """

    regularizer: str
    weight: Array
    offset: Array
    means: Array
    centers: Array
    features: Array
    labels: Array
    perturbed: Array = field(default_factory=lambda: np.empty((0, 2)))

    def __post_init__(self) -> None:
        for name in ("weight", "means", "centers", "features"):
            shape = getattr(self, name).shape
            if len(shape) != 2 or shape[1] != 2:
                raise ValueError(f"{name} must have shape (…, 2), got {shape}")

    def head(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as float64 tensors, for `regfast.representation`."""
        return torch.from_numpy(self.weight.astype(np.float64)), torch.from_numpy(self.offset.astype(np.float64))

    def predicted(self, points: Array) -> Array:
        """Class (N,) that the head predicts at points (N, 2)."""
        return (points @ self.weight.T + self.offset).argmax(axis=1)


def window(planes: Sequence[Plane], share: float = 99.0) -> float:
    """Half the side of one square around the origin that holds ``share`` percent of every panel's features."""
    reach = max(float(np.percentile(np.abs(p.features).max(axis=1), share)) for p in planes)
    return 1.12 * max(reach, 1e-6)


def class_color(label: int) -> str:
    """The color of class ``label``; classes beyond the ninth share one, gray."""
    return CLASSES[min(label, len(CLASSES) - 1)]


def class_handles(count: int) -> list[Line2D]:
    """Legend entries for the colors of ``count`` classes."""
    names = [str(label) for label in range(min(count, len(CLASSES)))]
    if count > len(CLASSES):
        names[-1] = "others"
    names[0] = f"class {names[0]}"
    return [Line2D([], [], marker="o", ls="none", ms=4.5, color=class_color(k), label=n) for k, n in enumerate(names)]


def weight_scale(planes: Sequence[Plane], half: float) -> float:
    """The factor (1, 2, 5, 10, …, or a fraction) that brings the longest weight vector to about half the window."""
    longest = max(float(np.linalg.norm(p.weight, axis=1).max()) for p in planes)
    wanted = 0.6 * half / max(longest, 1e-12)
    steps = np.array([m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)])
    return float(steps[np.searchsorted(steps, wanted, side="right") - 1])


@style.styled
def draw(rows: Sequence[tuple[str, Sequence[Plane]]], shared: bool = True) -> Figure:
    """One row of panels per ``(name, planes)``, equal aspect; one window for all, or each its own (``shared`` False).

    Tinted regions are the predicted classes; squares weight vectors, triangles class means, circles features, crosses
    v_opt. A center outside the window is an arrow at its edge. Source: arXiv 2410.03999, Fig. 1 and 4.
    """
    planes = [p for _, row in rows for p in row]
    if not planes:
        raise ValueError("rows: expected at least one plane")
    columns = max(len(row) for _, row in rows)
    side = style.WIDTH / max(columns, 2)
    ticks = 0.0 if shared else 0.12  # inches for tick labels under every row
    figure = Figure(figsize=(side * columns + 0.25, (side - 0.02 + ticks) * len(rows) + 0.55))
    grid = figure.subplots(len(rows), columns, sharex=shared, sharey=shared, squeeze=False)
    names = list(dict.fromkeys(p.regularizer for p in planes))
    for number, (line, (name, row)) in enumerate(zip(grid, rows, strict=True)):
        for axes, plane in zip(line, row, strict=False):
            half = window(planes if shared else [plane])
            scale = weight_scale(planes if shared else [plane], half)
            regions(axes, plane, half)
            symbols(axes, plane, half, scale)
            frame(axes, half)
            if number == 0:
                axes.set_title(
                    style.label(plane.regularizer), color=style.color(plane.regularizer, names), fontweight="bold"
                )
        for axes in line[len(row) :]:
            axes.set_axis_off()
        line[0].set_ylabel(name)
    figure.legend(handles=symbol_handles(f"×{scale:g}" if shared else "scaled"), loc="outside lower center", ncols=4)
    classes = class_handles(max(len(p.weight) for p in planes))
    figure.legend(handles=classes, loc="outside upper center", ncols=len(classes), handletextpad=0, columnspacing=1.2)
    return figure


def frame(axes: Axes, half: float) -> None:
    """The fixed square window, no grid, few ticks."""
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    axes.grid(False)
    axes.locator_params(nbins=5)
    axes.spines[["top", "right"]].set_visible(True)


def regions(axes: Axes, plane: Plane, half: float, alpha: float = 0.22) -> None:
    """Tint every point of the window with the color of the class predicted there, and draw the boundaries."""
    x = np.linspace(-half, half, GRID)
    predicted = confidence_contours(*plane.head(), torch.from_numpy(x), torch.from_numpy(x)).prediction.numpy()
    tints = np.array([(*to_rgb(class_color(c)), alpha) for c in range(len(plane.weight))])
    extent = (-half, half, -half, half)
    axes.imshow(tints[predicted], origin="lower", extent=extent, interpolation="nearest", zorder=0)
    # A class's region is where its margin is positive. The margin is linear on both sides of an edge, so that its
    # contour is a straight line, where that of the classes themselves would be a staircase.
    points = plane.weight @ np.stack(np.meshgrid(x, x), axis=0).reshape(2, -1) + plane.offset[:, None]
    for c in np.unique(predicted):
        margin = points[c] - np.delete(points, c, axis=0).max(axis=0)
        axes.contour(x, x, margin.reshape(GRID, GRID), levels=[0], colors=style.MUTED, linewidths=0.35, zorder=1)


def symbols(axes: Axes, plane: Plane, half: float, scale: float) -> None:
    """Features, weight vectors, class means and centers in their classes' colors."""
    shown = thin(len(plane.features), POINTS)
    tones = np.array([to_rgb(class_color(c)) for c in range(len(plane.weight))])
    x, y = plane.features[shown].T
    axes.scatter(x, y, s=5, c=tones[plane.labels[shown]], linewidths=0, alpha=0.75, zorder=2)
    edge: Any = {"edgecolors": style.INK, "linewidths": 0.6, "zorder": 4}
    weight = scale * plane.weight
    axes.scatter(weight[:, 0], weight[:, 1], s=20, marker="s", c=tones, **edge)
    axes.scatter(plane.means[:, 0], plane.means[:, 1], s=24, marker="^", c=tones, **edge)
    for c, center in enumerate(plane.centers):
        mark_center(axes, center, half, class_color(c))


def mark_center(axes: Axes, center: Array, half: float, tone: str) -> None:
    """A cross at ``center``, or an arrow at the edge of the window that points to it."""
    if np.abs(center).max() <= 0.97 * half:
        axes.plot(*center, marker="x", ms=5.6, mew=2.4, color=style.INK, zorder=5)
        axes.plot(*center, marker="x", ms=5, mew=1.2, color=tone, zorder=6)
        return
    edge = center / np.abs(center).max() * 0.97 * half
    arrow = {"arrowstyle": "-|>", "color": tone, "lw": 1.4, "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=edge, xytext=0.82 * edge, arrowprops=arrow, zorder=6)


def symbol_handles(scale: str) -> list[Line2D]:
    """Legend entries for `symbols`, in neutral ink."""
    empty: Any = {"ls": "none", "color": style.INK, "markerfacecolor": style.MUTED, "ms": 5}
    return [
        Line2D([], [], marker="s", label=f"weight vector ({scale})", **empty),
        Line2D([], [], marker="^", label="class mean", **empty),
        Line2D([], [], marker="o", label="feature", **(empty | {"markeredgecolor": "none", "ms": 4})),
        Line2D([], [], marker="x", label="class center v_opt (arrow: outside)", **(empty | {"mew": 1.6})),
    ]
