"""Robust accuracy over evaluations spent, ours and peers, from the result file of compare.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLORS = {"regfast": "#0072b2", "torchattacks": "#d55e00", "foolbox": "#009e73"}
PANELS = {"budgets": "adversarially trained, 4/255", "budgets-ordinary": "ordinary, 1/255"}
BUDGET_IMAGES = 50


def plot(results: dict[str, Any], stem: Path) -> None:
    """Write `stem`.png and .svg: one panel a network, PGD of growing budgets; nothing without those cases."""
    panels = {case: panel for case, panel in PANELS.items() if case in results["cases"]}
    if not panels:
        return
    plt.rcParams["svg.hashsalt"] = "regfast"
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (case, title) in zip(axes[0], panels.items(), strict=True):
        rows = results["cases"][case]["rows"]
        for who, color in COLORS.items():
            line = [(row["units"] / BUDGET_IMAGES, row["robust_accuracy"]) for row in rows if row["who"] == who]
            if line:
                axis.plot(*zip(*line, strict=True), "o-", color=color, label=f"{who} PGD", markersize=4)
        axis.set(xscale="log", xlabel="forward passes and gradients per image", title=f"ResNet-20, {title}")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("robust accuracy")
    axes[0, 0].legend(frameon=False)
    figure.savefig(stem.with_suffix(".png"), dpi=150)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
