"""Calibration without bins: smECE and the smooth reliability diagram."""

from __future__ import annotations

from typing import Any

import numpy as np

from regfast.calibration import smooth_ece_interval, smooth_reliability
from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Array, Columns, Given, Part, Work, behind, ours
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.drawing import Drawing, sentence
from regfast.report.figures import smooth
from regfast.report.tables import number


class Smooth(Part):
    """Accuracy over confidence by kernel regression, and the smooth calibration error."""

    name = "smooth"
    row = "a confidence"
    columns = {
        "regularizer": "", "seed": "", "confidence": "", "accuracy": "", "low": "", "high": "",
        "density": "smooth reliability diagram", "error": "smECE, with its interval", "error_low": "", "error_high": "",
    }  # fmt: skip
    section = "scaling-section"

    def settings(self, given: Given) -> dict[str, Any]:
        return {"interval": "95 % bootstrap over test images"}

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        return compute(outputs)

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(outputs: Outputs) -> dict[str, Array]:
    """Columns of smooth.parquet: the smooth reliability diagram and smECE, with 95 % bootstrap intervals."""
    confidence = outputs.logits.double().softmax(1).amax(1).clamp(max=1)
    curve = smooth_reliability(confidence, outputs.correct)
    error = smooth_ece_interval(confidence, outputs.correct)
    names = ("confidence", "accuracy", "low", "high", "density")
    columns = {name: getattr(curve, name)[1::4] for name in names}  # a quarter of the cells is more than a plot shows
    count = len(columns["confidence"])
    ends = {"error": error.estimate, "error_low": error.low, "error_high": error.high}
    return {**columns, **{name: np.full(count, value) for name, value in ends.items()}}


def draw(paper: Paper) -> list[Drawing]:
    """Calibration without bins: smECE and the smooth reliability diagram."""
    table = paper.tables["smooth"]
    models, found = {}, []
    for name in paper.regularizers(table):
        rows = where(table, regularizer=name)
        rows = where(rows, seed=rows["seed"].min())
        order = np.argsort(rows["confidence"], kind="stable")
        error, low, high = (float(rows[key][0]) for key in ("error", "error_low", "error_high"))
        curves = {key: rows[key][order] for key in ("confidence", "accuracy", "low", "high", "density")}
        models[name] = smooth.Smooth(**curves, error=(error, low, high))
        found.append(f"{style.in_sentence(name)} {number(error)} [{number(low)}, {number(high)}]")
    return [
        Drawing(
            "smooth",
            "Calibration without bins",
            smooth.draw(models),
            "Accuracy over confidence by kernel regression, at the bandwidth that the data fix (Błasiok and Nakkiran "
            "2023), with a 95 % bootstrap band; below, how often each confidence occurs. Below the diagonal is "
            "over-confidence. Does the sign agree with the binned diagram's, and is the diagonal inside the band?",
            f"Smooth calibration error with its 95 % interval, first seed: {sentence(found)}.",
            {"smooth": behind(table)},
            settings=ours(paper, "smooth"),
        )
    ]
