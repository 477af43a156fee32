"""Feature scaling against temperature scaling."""

from __future__ import annotations

from typing import Any

import numpy as np

from regfast.calibration import scaling_curves
from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Array, Columns, Given, Part, Rows, Work, as_columns, behind, geometric, ours
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.drawing import Drawing
from regfast.report.figures import scaling


class Scaling(Part):
    """ECE over the scale of logits and of features."""

    name = "scaling"
    row = "a scale"
    columns = {
        "regularizer": "", "seed": "", "kind": "`temperature`: logits times scale; `feature`", "scale": "", "ece": "",
        "nll": "", "changed": "share of predictions that differ from scale 1",
    }  # fmt: skip
    section = "scaling-section"

    def settings(self, given: Given) -> dict[str, Any]:
        return {"scales": geometric(0.1, 10, given.scales), "bins": 15}

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        return as_columns(compute(outputs, work.settings["scales"], work.settings["bins"]))

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(outputs: Outputs, scales: list[float], bins: int) -> Rows:
    """Rows of scaling.parquet: ECE over the scale of logits and of features."""
    found = scaling_curves(outputs.features, outputs.weight, outputs.bias, outputs.labels, scales, bins=bins)
    return [
        {"kind": kind, "scale": float(s), "ece": float(ece), "nll": float(nll), "changed": float(changed)}
        for kind, curve in found._asdict().items()
        for s, ece, nll, changed in zip(curve.scale, curve.ece, curve.nll, curve.changed, strict=True)
    ]


def draw(paper: Paper) -> list[Drawing]:
    """Feature scaling and temperature scaling: ECE over the scale."""
    table = paper.tables["scaling"]
    names, scales = paper.regularizers(table), np.unique(table["scale"])
    ece: dict[str, dict[str, Array]] = {n: {} for n in names}
    changed: dict[str, dict[str, Array]] = {n: {} for n in names}
    best = []
    for name in names:
        for kind in scaling.LINES:
            rows = where(table, regularizer=name, kind=kind)
            sort = np.lexsort((rows["scale"], rows["seed"]))
            ece[name][kind], changed[name][kind] = (rows[k][sort].reshape(-1, len(scales)) for k in ("ece", "changed"))
        spots = {kind: int(ece[name][kind].mean(axis=0).argmin()) for kind in scaling.LINES}
        lowest = {kind: float(ece[name][kind].mean(axis=0)[k]) for kind, k in spots.items()}
        moved = float(changed[name]["feature"].mean(axis=0)[spots["feature"]])
        best.append(
            f"{style.in_sentence(name)} {lowest['temperature']:.3f} at s = {scales[spots['temperature']]:.3g} by "
            f"temperature, {lowest['feature']:.3f} at s = {scales[spots['feature']]:.3g} by features ({moved:.1%} of "
            "predictions change)"
        )
    return [
        Drawing(
            "scaling",
            "Feature scaling and temperature scaling",
            scaling.draw(scales, ece, changed),
            "The two curves agree where the bias is constant over the classes. A minimum to the left of 1 is "
            "over-confidence, to the right under-confidence. Only feature scaling changes predictions, because (1 − "
            "s) b stays behind.",
            f"Lowest ECE: {'; '.join(best)}.",
            {"scaling": behind(table)},
            settings=f"{ours(paper, 'scaling')} The optima are read off the test data: a best case, not a calibrated "
            "model.".strip(),
        )
    ]
