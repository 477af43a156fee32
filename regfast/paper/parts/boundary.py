"""How far the nearest boundary of a feature is, and how far the way along the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Array, Columns, Given, Part, Work, behind, ours
from regfast.paper.results import Paper, where
from regfast.report.drawing import Drawing
from regfast.report.figures import distributions
from regfast.report.tables import listed
from regfast.representation import boundary_distance


class Boundary(Part):
    """Exact distance to the nearest boundary against the distance along the cross-entropy gradient."""

    name = "boundary"
    row = "a sample"
    columns = {
        "regularizer": "", "seed": "", "sample": "", "label": "", "correct": "", "norm": "",
        "distance": "to the nearest boundary", "gradient_distance": "along the cross-entropy gradient",
    }  # fmt: skip

    def settings(self, given: Given) -> dict[str, Any]:
        return {"samples": "test images that are classified correctly"}

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        return compute(outputs)

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(outputs: Outputs) -> dict[str, Array]:
    """Columns of boundary.parquet: exact distance to the nearest boundary, and along the gradient."""
    way = boundary_distance(outputs.features, outputs.weight, outputs.bias, outputs.labels)
    return {
        "sample": outputs.samples.numpy(),
        "label": outputs.labels.numpy(),
        "correct": outputs.correct.numpy(),
        "norm": outputs.features.double().norm(dim=1).numpy(),
        "distance": way.distance.numpy(),
        "gradient_distance": way.gradient_distance.numpy(),
    }


def draw(paper: Paper) -> list[Drawing]:
    """Exact distance to the nearest boundary against the distance along the gradient."""
    table = paper.tables["boundary"]
    names = paper.regularizers(table)
    values: dict[str, dict[str, Array]] = {"nearest boundary": {}, "along the gradient": {}}
    ratios, medians, never = {}, {}, {}
    for name in names:
        rows = where(where(table, regularizer=name), correct=True)
        finite = np.isfinite(rows["gradient_distance"]) & (rows["distance"] > 0)
        values["nearest boundary"][name] = rows["distance"]
        values["along the gradient"][name] = rows["gradient_distance"][finite]
        ratio = rows["gradient_distance"][finite] / rows["distance"][finite]
        ratios[name] = float(np.median(ratio)) if len(ratio) else float("nan")
        medians[name] = float(np.median(rows["distance"])) if len(rows["distance"]) else float("nan")
        never[name] = float((~np.isfinite(rows["gradient_distance"])).mean()) if len(rows["distance"]) else float("nan")
    pooled = np.concatenate([v[np.isfinite(v)] for t in values.values() for v in t.values()])
    top = float(np.percentile(pooled, 98)) if len(pooled) else 1.0
    text = f"Median distance to the nearest boundary: {listed(medians)}. "
    text += f"Along the gradient it is longer by a median factor of {listed(ratios)}."
    if max(never.values()) > 0:
        text += f" The gradient meets no boundary at all for this share of samples: {listed(never)}."
    return [
        Drawing(
            "boundary",
            "How much robustness is a misdirected gradient?",
            distributions.draw(values, np.linspace(0, top, 31), "distance in feature space"),
            "For a linear head the nearest boundary is known exactly. If the way along the cross-entropy gradient is "
            "much longer, a gradient attack walks a detour, and part of a soft label's robustness is that detour. "
            "Correctly classified samples; the last bin holds everything beyond.",
            text,
            {"distances": behind(table)},
            settings=ours(paper, "boundary"),
        )
    ]
