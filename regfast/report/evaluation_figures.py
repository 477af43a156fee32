"""The figures of an evaluation: robust accuracy over eps, classes, and a grid of broken images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regfast.evaluation.classes import ClassRow
from regfast.evaluation.examples import Example
from regfast.evaluation.summary import eps_text
from regfast.report import style
from regfast.report.drawing import Drawing
from regfast.report.results import NORMS

SHOWN = 20  # classes in the figure: the least robust of more


def drawings(summary: Mapping[str, Any], classes: Sequence[ClassRow], examples: Sequence[Example]) -> list[Drawing]:
    """Every figure that the files of the run allow, in the page's order."""
    found = [accuracy_figure(summary)]
    if examples:
        found.append(picture_figure(examples))
    if len(classes) > 1:
        found.append(class_figure(classes))
    return found


@style.styled
def accuracy_figure(summary: Mapping[str, Any]) -> Drawing:
    """Robust accuracy over eps, one panel a norm."""
    norms = sorted({row["norm"] for row in summary["attacks"]})
    figure = Figure(figsize=(4.6 if len(norms) == 1 else style.WIDTH, 2.9))
    panels = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
    attacks = sorted({row["attack"] for row in summary["attacks"]})
    columns: dict[str, list[Any]] = {name: [] for name in ("attack", "norm", "eps", "robust", "low", "high")}
    for axis, norm in zip(panels, norms, strict=True):
        for attack in attacks:
            rows = [row for row in summary["attacks"] if (row["attack"], row["norm"]) == (attack, norm)]
            if not rows:
                continue
            shares = [summary["clean"], *(row["robust_accuracy"] for row in rows)]
            eps = [0.0, *(row["eps"] for row in rows)]
            line: Any = {"color": style.color(attack, attacks), "marker": style.marker(attack, attacks)}
            axis.plot(eps, [share["value"] for share in shares], label=style.label(attack), **line)
            low, high = ([share[end] for share in shares] for end in ("low", "high"))
            axis.fill_between(eps, low, high, color=line["color"], alpha=0.15, linewidth=0)
            columns["attack"] += [attack] * len(eps)
            columns["norm"] += [norm] * len(eps)
            columns["eps"] += eps
            columns["robust"] += [share["value"] for share in shares]
            columns["low"] += low
            columns["high"] += high
        ticks = sorted({0.0, *(row["eps"] for row in summary["attacks"] if row["norm"] == norm)})
        if len(ticks) <= 6:
            axis.set_xticks(ticks, [eps_text(value) for value in ticks])
        axis.set(xlabel=f"ε ({NORMS.get(norm, norm)})", ylim=(0, 1), xlim=(0, None))
    panels[0].set_ylabel("robust accuracy")
    panels[0].legend()
    last = min(summary["attacks"], key=lambda row: (row["robust_accuracy"]["value"], row["eps"]))
    return Drawing(
        "robust-accuracy",
        "Robust accuracy",
        figure,
        "At ε = 0 stands the clean accuracy. A curve that falls late is a robust model; bands are 95 % intervals.",
        f"Clean accuracy {_percent(summary['clean'])}; least robust accuracy {_percent(last['robust_accuracy'])}, "
        f"under {last['attack']} at ε = {eps_text(last['eps'])} ({NORMS.get(last['norm'], last['norm'])}).",
        {"robust accuracy": columns},
    )


@style.styled
def class_figure(classes: Sequence[ClassRow]) -> Drawing:
    """Clean and robust accuracy per class, the least robust first."""
    order = sorted(classes, key=lambda row: (row.robust / row.samples, row.clean / row.samples))
    shown = order[:SHOWN]
    figure = Figure(figsize=(4.6, 0.8 + 0.2 * len(shown)))
    axis = figure.subplots()
    places = np.arange(len(shown))[::-1]
    axis.barh(places, [row.clean / row.samples for row in shown], 0.7, color=style.GRID, label="clean")
    axis.barh(places, [row.robust / row.samples for row in shown], 0.35, color=style.SPARE_COLORS[1], label="robust")
    axis.set_yticks(places, [_short(row.name) for row in shown])
    axis.set(xlim=(0, 1), xlabel="accuracy")
    axis.grid(axis="y", visible=False)
    figure.legend(loc="outside upper right", ncols=2)
    least, most = order[0], order[-1]
    few = min(row.samples for row in classes)
    return Drawing(
        "classes",
        "Classes" if len(shown) == len(classes) else f"The {SHOWN} least robust classes of {len(classes)}",
        figure,
        "Robust under every attack of the run at its largest ε. The gray bar is what the attacks had to break."
        + (f" Some classes have {few} samples only: their bars say little." if few < 20 else ""),
        f"Least robust: {least.name} ({least.robust} of {least.samples}); most robust: {most.name} ({most.robust} of "
        f"{most.samples}).",
        {
            "classes": {
                "class": [row.label for row in order],
                "name": [row.name for row in order],
                "samples": [row.samples for row in order],
                "clean": [row.clean for row in order],
                "robust": [row.robust for row in order],
            }
        },
    )


@style.styled
def picture_figure(examples: Sequence[Example]) -> Drawing:
    """Rows of clean image, adversarial image and perturbation, with what the model says of each."""
    figure = Figure(figsize=(4.8, 0.3 + 1.75 * len(examples)))
    axes = figure.subplots(len(examples), 3, squeeze=False)
    for row, one in zip(axes, examples, strict=True):
        moved = one.adversarial - one.clean
        factor = _factor(float(moved.abs().max()))
        _picture(row[0], one.clean, f"{_short(one.label_name)}\n{one.clean_confidence:.0%}")
        _picture(row[1], one.adversarial, f"{_short(one.prediction_name)}\n{one.confidence:.0%}")
        _picture(row[2], (0.5 + factor * moved).clamp(0, 1), f"perturbation\n× {factor}")
        row[0].set_ylabel(f"sample {one.sample}", fontsize=7)
    first = examples[0]
    levels = sorted({one.eps for one in examples})
    return Drawing(
        "examples",
        "Broken images",
        figure,
        "Left: the clean image with its class and the model's confidence. Middle: the adversarial image with what the "
        "model takes it for. Right: their difference, enlarged; gray is no change.",
        f"{len(examples)} of the images that {first.attack} ({NORMS.get(first.norm, first.norm)}) broke, at ε = "
        f"{', '.join(map(eps_text, levels))}, spread over the data.",
        {
            "examples": {
                "sample": [one.sample for one in examples],
                "eps": [one.eps for one in examples],
                "label": [one.label_name for one in examples],
                "clean_confidence": [one.clean_confidence for one in examples],
                "prediction": [one.prediction_name for one in examples],
                "confidence": [one.confidence for one in examples],
            }
        },
    )


def _picture(axis: Axes, image: Any, title: str) -> None:
    pixels = image.permute(1, 2, 0).numpy()
    gray = pixels.shape[2] != 3
    axis.imshow(
        (255 * (pixels[..., 0] if gray else pixels)).round().astype(np.uint8),
        cmap="gray" if gray else None, vmin=0, vmax=255, interpolation="nearest" if len(pixels) < 64 else "antialiased",
    )  # fmt: skip
    axis.set_title(title, fontsize=7.5)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def _factor(largest: float) -> int:
    """How much a perturbation can be enlarged before it leaves the gray scale: 1, 2, 5, 10, 20 …"""
    room = 0.5 / max(largest, 1e-6)
    steps = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]
    return max([step for step in steps if step <= room], default=1)


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"


def _percent(share: Mapping[str, Any]) -> str:
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
