"""Neural collapse while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from regfast.data import Subset
from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Array, Columns, Given, Part, Work, as_columns, behind, ours
from regfast.paper.results import Paper, where
from regfast.report.drawing import Drawing
from regfast.report.figures import curves
from regfast.report.tables import listed
from regfast.representation import snapshot
from regfast.runs.files import read_columns
from regfast.study import StudyConfig
from regfast.training import predict

MEASURES = {
    "nc1": "NC1",
    "nc2_norm": "NC2, lengths",
    "nc2_angle": "NC2, angles",
    "nc3": "NC3",
    "nc4": "NC4",
    "within_in_span": "spread in span",
    "rms_in_span": "RMS in span",
    "rms_out_of_span": "RMS out of span",
    "cosine_in_span": "cosine in span",
}


class Collapse(Part):
    """The main study's trajectories: NC1 to NC4, and the two parts of the features, after every epoch."""

    name = "collapse"
    row = "an epoch of the main study: its `trajectory.parquet`"
    columns = {
        "regularizer": "", "seed": "", "epoch": "", "nc1": "", "nc2_norm": "", "nc2_angle": "", "nc3": "", "nc4": "",
        "within_in_span": "", "rms_in_span": "", "rms_out_of_span": "",
        "cosine_in_span": "and every other figure of `representation.snapshot`",
    }  # fmt: skip

    def settings(self, given: Given) -> dict[str, Any]:
        if not isinstance(given.main, StudyConfig):
            return {"images": given.images, "radius of v_opt": "median norm of the correct features"}
        return {
            "images": f"at most {given.main.trajectory}, spread over the training set, as they are",
            "radius of v_opt": "median norm of the correct features, epoch by epoch",
        }

    def of_study(self, study_dir: Path) -> Columns:
        return read_columns(study_dir / "trajectory.parquet")

    def of_measured(self, work: Work, outputs: Outputs) -> Columns:
        assert work.train is not None
        count = min(work.settings["images"], len(work.train))
        watched = Subset(work.train, torch.linspace(0, len(work.train) - 1, count).long())
        features, _, labels = predict(outputs.model, watched)
        found = snapshot(features, outputs.weight, outputs.bias, labels)
        return as_columns([{"epoch": 0, **found}])

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def draw(paper: Paper) -> list[Drawing]:
    """Neural-collapse measures over the epochs."""
    table = paper.tables["collapse"]
    names = paper.regularizers(table)
    shown = [m for m in MEASURES if m in table]
    lines: dict[str, dict[str, Array]] = {MEASURES[m]: {} for m in shown}
    epochs = {}
    count = len(np.unique(table["seed"]))
    seeds = f"{count} seeds" if count > 1 else "one seed"
    for name in names:
        rows = where(table, regularizer=name)
        epochs[name] = np.unique(rows["epoch"])
        sort = np.lexsort((rows["epoch"], rows["seed"]))
        for measure in shown:
            lines[MEASURES[measure]][name] = rows[measure][sort].reshape(-1, len(epochs[name]))
    found = [
        f"{title}: " + listed({n: float(v[:, -1].mean()) for n, v in values.items()}) for title, values in lines.items()
    ]
    return [
        Drawing(
            "collapse",
            "Neural collapse while training",
            curves.draw(epochs, lines),
            "NC1 to NC4 are 0 at full collapse: no spread within classes (NC1), class means of equal length at equal "
            "angles (NC2), the head aligned with them (NC3), and the head's decision that of the nearest mean (NC4). "
            "Spread in span: share of the spread within classes that the softmax sees. Then the length of the "
            "features in the span of the head, where the softmax sees it, and outside, and the cosine to v_opt in "
            f"the span. Training images as they are; lines are means over {seeds}, bands span them.",
            f"At the last epoch: {'; '.join(found)}.",
            {"collapse": behind(table)},
            settings=f"NC1 is tr(Σ_W Σ_B⁺)/K; NC2 lengths: standard deviation over mean; NC2 angles: mean absolute "
            f"deviation from −1/(K−1); NC3: distance of head and means, each over its Frobenius norm. "
            f"{ours(paper, 'collapse')}",
        )
    ]
