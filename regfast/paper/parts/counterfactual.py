"""What follows when two models swap the norms or the directions of their features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Array, Columns, Given, Part, Rows, Work, as_columns, behind, ours
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.drawing import Drawing
from regfast.report.figures import matrix
from regfast.report.tables import listed, number
from regfast.representation import boundary_distance, counterfactual


class Counterfactual(Part):
    """Every model's directions and head with every model's norms."""

    name = "counterfactual"
    row = "a swap of norms and directions"
    columns = {
        "seed": "", "norms": "a regularizer", "directions": "a regularizer; the head goes with the directions",
        "accuracy": "", "ece": "", "distance": "", "gradient_distance": "", "asr": "",
        "asr_exact": "as `representation.counterfactual`",
    }  # fmt: skip

    def settings(self, given: Given) -> dict[str, Any]:
        return {
            "eps": "median distance to the nearest boundary of the first regularizer's correct features, per seed",
            "steps": 20,
        }

    def of_seed(self, work: Work, models: Mapping[str, Outputs]) -> Columns:
        return as_columns(compute(models, work.settings["steps"]))

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(models: Mapping[str, Outputs], steps: int) -> Rows:
    """Rows of counterfactual.parquet: every model's directions and head with every model's norms.

    The attack's radius is the median distance of the first model's correct features to their nearest boundary, so that
    an exact attack flips half of them. Features of other widths cannot be swapped: such pairs are left out.
    """
    first = next(iter(models.values()))
    distance = boundary_distance(first.features, first.weight, first.bias, first.labels).distance
    reached = distance[first.correct]
    eps = float(reached.median()) if len(reached) else float(distance.max())
    return [
        {
            "norms": giver,
            "directions": keeper,
            **counterfactual(
                kept.features, other.features, kept.weight, kept.bias, kept.labels, eps=eps, steps=steps
            )._asdict(),
        }
        for giver, other in models.items()
        for keeper, kept in models.items()
        if kept.features.shape == other.features.shape
    ]


def draw(paper: Paper) -> list[Drawing]:
    """One model's norms on another model's directions."""
    table = paper.tables["counterfactual"]
    present = set(table["norms"].astype(str).tolist()) | set(table["directions"].astype(str).tolist())
    names = [n for n in paper.main.regularizers if n in present]
    shown = {"ece": "ECE", "distance": "distance to the boundary", "asr": "ASR of a feature attack"}
    tables = {
        title: np.array([[mean(where(table, norms=c, directions=r)[key]) for c in names] for r in names])
        for key, title in shown.items()
    }
    found = []
    reference = paper.main.reference
    if reference in names and len(names) > 1:
        own = names.index(reference)
        for title, values in tables.items():
            norms = {n: float(values[own, k]) for k, n in enumerate(names) if n != reference}
            directions = {n: float(values[k, own]) for k, n in enumerate(names) if n != reference}
            found.append(
                f"{title[0].upper()}{title[1:]}: {style.in_sentence(reference)} {number(values[own, own])}; with the "
                f"others' norms {listed(norms)}; with the others' directions and head {listed(directions)}."
            )
    return [
        Drawing(
            "counterfactual",
            "Cause or companion: swapped norms and directions",
            matrix.draw(tables, names, "directions and head from", "norms from"),
            "The framed diagonal is the models as they are. Along a row only the norms change. If a row's color "
            "changes as the columns' does, the magnitude is what matters; if a column's does, the directions are.",
            " ".join(found),
            {"swaps": behind(table)},
            settings=ours(paper, "counterfactual"),
        )
    ]


def mean(values: Array) -> float:
    """NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
