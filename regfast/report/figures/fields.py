"""The paper's Fig. 2 and 5: confidence, loss and gradient over a two-dimensional representation space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from regfast.report import style
from regfast.report.figures.bins import thin
from regfast.report.figures.plane import Plane, class_color, class_handles, frame, mark_center, window
from regfast.representation.plane import confidence_contours, gradient_field

Array = npt.NDArray[Any]
CONFIDENCES = (0.0, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
ARROWS = 15  # a side
SIDE = 120  # points a side of the contours' grid
PAIRS = 60  # clean and perturbed features joined, per panel


def field(plane: Plane, label: int, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Loss (ny, nx), its gradient (ny, nx, 2) and the margin (ny, nx) of class ``label`` on the grid ``x`` × ``y``."""
    found = gradient_field(*plane.head(), label, torch.from_numpy(x), torch.from_numpy(y))
    return found.loss.numpy(), found.gradient.numpy(), found.margin.numpy()


@style.styled
def draw_confidence(plane: Plane, label: int, zoom: tuple[Array, Array] | None = None) -> Figure:
    """Three panels: confidence with the features; loss of class ``label`` with descent directions; its enlargement.

    ``zoom`` is the enlarged box as (low, high) corners; by default a fifth of the window around the class mean. Arrows
    have unit length, for where the loss saturates the gradient's length says nothing about its direction. Source: Fig.
    2.
    """
    half = window([plane])
    low, high = zoom or _box(plane.means[label], half)
    figure = Figure(figsize=(style.WIDTH, 3.05))
    whole, losses, enlarged = figure.subplots(1, 3)

    x = np.linspace(-half, half, SIDE)
    confidence = confidence_contours(*plane.head(), torch.from_numpy(x), torch.from_numpy(x)).confidence.numpy()
    filled = whole.contourf(x, x, confidence, levels=CONFIDENCES, cmap=style.CONFIDENCE)
    shown = thin(len(plane.features), 300)
    tones = np.array([to_rgb(class_color(c)) for c in range(len(plane.weight))])
    whole.scatter(
        *plane.features[shown].T, s=6, c=tones[plane.labels[shown]], edgecolors=style.PAPER, linewidths=0.25, zorder=3
    )
    whole.set_title("confidence and features", fontsize=8)
    figure.colorbar(
        filled, ax=whole, location="bottom", aspect=28, pad=0.02, label="confidence", format="{x:g}"
    ).ax.tick_params(labelsize=6)

    levels = _levels(field(plane, label, x, x)[0])
    for axes, box, title in (
        (losses, (np.full(2, -half), np.full(2, half)), f"loss of class {label}, and the way down"),
        (enlarged, (low, high), "enlarged"),
    ):
        drawn = _loss_field(axes, plane, label, *box, levels, descent=True)
        mark = thin(len(plane.features), 300)
        mark = mark[plane.labels[mark] == label]
        axes.scatter(*plane.features[mark].T, s=6, color=style.INK, linewidths=0, alpha=0.6, zorder=3)
        if axes is losses or ((low <= plane.centers[label]) & (plane.centers[label] <= high)).all():
            mark_center(axes, plane.centers[label], half, "#e69f00")
        axes.set_title(title, fontsize=8)
    figure.colorbar(
        drawn, ax=[losses, enlarged], location="bottom", aspect=50, pad=0.02, label="loss (nats)", format="{x:g}"
    ).ax.tick_params(labelsize=6)
    losses.add_patch(Rectangle(tuple(low), *(high - low), fill=False, edgecolor=style.INK, lw=1, zorder=6))
    for axes in (whole, losses):
        frame(axes, half)
    frame(enlarged, half)
    enlarged.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    enlarged.locator_params(nbins=4)
    classes = class_handles(len(plane.weight))
    figure.legend(handles=classes, loc="outside upper center", ncols=len(classes), handletextpad=0, columnspacing=1.2)
    return figure


@style.styled
def draw_field(planes: Sequence[Plane], label: int, shared: bool = True) -> Figure:
    """Loss and gradient of class ``label`` per plane, its boundary, clean and perturbed features joined, and v_opt.

    The same levels in every panel, and the same window unless ``shared`` is False. Arrows point where the loss rises,
    the way an attack pushes. Source: Fig. 5.
    """
    if not planes:
        raise ValueError("planes: expected at least one")
    figure = Figure(figsize=(style.WIDTH, style.WIDTH / max(len(planes), 2) + 0.85))
    row = figure.subplots(1, len(planes), sharex=shared, sharey=shared, squeeze=False)[0]
    halves = [window(planes if shared else [p]) for p in planes]
    grids = [np.linspace(-half, half, SIDE) for half in halves]
    levels = _levels(np.concatenate([field(p, label, x, x)[0].ravel() for p, x in zip(planes, grids, strict=True)]))
    names = [p.regularizer for p in planes]
    for axes, plane, half, x in zip(row, planes, halves, grids, strict=True):
        drawn = _loss_field(axes, plane, label, np.full(2, -half), np.full(2, half), levels, descent=False)
        margin = field(plane, label, x, x)[2]
        if margin.min() < 0 < margin.max():
            axes.contour(x, x, margin, levels=[0], colors=style.INK, linewidths=1.4, zorder=4)
        mine = np.flatnonzero(plane.labels == label)
        mine = mine[thin(len(mine), PAIRS)] if len(mine) else mine
        if len(plane.perturbed):
            both = np.stack([plane.features[mine], plane.perturbed[mine]], axis=1)
            for start, end in both[np.isfinite(both).all(axis=(1, 2))]:
                axes.plot(*np.stack([start, end]).T, color=style.INK, lw=0.5, alpha=0.55, zorder=5)
                axes.plot(*end, marker="x", ms=3, mew=0.8, color="#d55e00", zorder=6)
        axes.plot(*plane.features[mine].T, "o", ms=2.4, color="#0072b2", mew=0, zorder=6)
        mark_center(axes, plane.centers[label], half, "#e69f00")
        axes.set_title(style.label(plane.regularizer), color=style.color(plane.regularizer, names), fontweight="bold")
        frame(axes, half)
    figure.colorbar(drawn, ax=list(row), location="bottom", aspect=60, pad=0.02, label="loss (nats)", format="{x:g}")
    handles = [
        Line2D([], [], marker="o", ls="none", ms=3.5, color="#0072b2", label="clean feature"),
        Line2D([], [], marker="x", ls="none", ms=4, color="#d55e00", label="under attack"),
        Line2D(
            [], [], marker="x", ls="none", ms=6, mew=2, color="#e69f00", label="class center v_opt (arrow: outside)"
        ),
        Line2D([], [], color=style.INK, lw=1.4, label="decision boundary"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _loss_field(
    axes: Axes, plane: Plane, label: int, low: Array, high: Array, levels: Array, descent: bool
) -> QuadContourSet:
    x, y = np.linspace(low[0], high[0], SIDE), np.linspace(low[1], high[1], SIDE)
    # Ink that grows denser with the loss: the page can turn it light on dark.
    shades = [(style.INK, alpha) for alpha in np.linspace(0.0, 0.5, len(levels))]
    drawn = axes.contourf(x, y, field(plane, label, x, y)[0], levels=levels, colors=shades, extend="max")
    margin = (high - low) / (2 * ARROWS)
    (left, bottom), (right, top) = low + margin, high - margin
    ax, ay = np.linspace(left, right, ARROWS), np.linspace(bottom, top, ARROWS)
    slope = field(plane, label, ax, ay)[1]
    length = np.linalg.norm(slope, axis=-1, keepdims=True)
    unit = np.divide(slope, length, out=np.zeros_like(slope), where=length > 1e-300) * (-1 if descent else 1)
    axes.quiver(
        ax, ay, unit[..., 0], unit[..., 1], color="#0072b2", alpha=0.75, scale=ARROWS * 1.5, width=0.0055, zorder=2
    )
    return drawn


def _levels(values: Array) -> Array:
    """Seven levels of loss, spread evenly over its range's logarithm and rounded to one digit."""
    least, top = (float(v) for v in np.percentile(values, [2, 98]))
    raw = np.array([0.0, *np.geomspace(max(least, top / 1000, 1e-3), max(top, 1e-2), 7)])
    digits = 10.0 ** np.floor(np.log10(np.where(raw > 0, raw, 1)))
    return np.unique(np.round(raw / digits) * digits)


def _box(middle: Array, half: float) -> tuple[Array, Array]:
    reach = half / 5
    middle = np.clip(middle, -half + reach, half - reach)
    return middle - reach, middle + reach


def field_at(plane: Plane, label: int, points: Array) -> Array:
    """Gradient (N, 2) of the cross-entropy of class ``label`` at points (N, 2): Wᵀ(p - e_label)."""
    logits = points @ plane.weight.T + plane.offset
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    # 1 - p_label as the sum of the others: exact where p_label rounds to 1.
    share[:, label] = 0
    share[:, label] = -share.sum(axis=1)
    return np.asarray(share @ plane.weight)
