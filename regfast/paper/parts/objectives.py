"""The same attack with other objectives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regfast.attacks import APGD
from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Columns, Given, Part, Rows, Work, as_columns, behind, ours
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.drawing import Drawing, sentence
from regfast.report.figures import dots
from regfast.report.tables import number


class Objectives(Part):
    """APGD with cross-entropy, DLR, and targeted DLR at the same radius and step count."""

    name = "objectives"
    row = "an attack objective"
    columns = {"regularizer": "", "seed": "", "objective": "`cross-entropy`, `DLR`, `targeted DLR`", "asr": ""}
    attacks = True

    def settings(self, given: Given) -> dict[str, Any]:
        return {"attack": "APGD", "eps": given.pgd("weak").eps, **given.attack, "targets": 3}

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        chosen = {name: work.settings[name] for name in ("norm", "eps", "steps", "targets")}
        return as_columns(compute(outputs, outputs.images(), seed=work.seed, **chosen))

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(outputs: Outputs, images: Tensor, *, norm: str, eps: float, steps: int, targets: int, seed: int) -> Rows:
    """Rows of objectives.parquet: APGD with cross-entropy, DLR, and targeted DLR at the same radius and step count."""
    attacks = {
        "cross-entropy": APGD(norm, eps, steps),
        "DLR": APGD(norm, eps, steps, loss="dlr"),
        "targeted DLR": APGD(norm, eps, steps, loss="dlr", targets=targets),
    }
    return [
        {"objective": name, "asr": attack.run(outputs.model, images, outputs.labels, seed=seed).success_rate}
        for name, attack in attacks.items()
    ]


def draw(paper: Paper) -> list[Drawing]:
    """Cross-entropy against targeted and DLR objectives."""
    table = paper.tables["objectives"]
    names = paper.regularizers(table)
    objectives = list(dict.fromkeys(table["objective"].astype(str).tolist()))
    estimates, best = {}, {}
    for name in names:
        rates = {o: where(table, regularizer=name, objective=o)["asr"] for o in objectives}
        estimates[name] = {o: (float(r.mean()), float(r.min()), float(r.max())) for o, r in rates.items() if len(r)}
        best[name] = max(estimates[name], key=lambda o, e=estimates[name]: e[o][0])  # type: ignore[misc]
    return [
        Drawing(
            "objectives",
            "The same attack with other objectives",
            dots.draw({"": estimates}, "attack success rate", objectives),
            "If another objective flips many more samples than cross-entropy, the cross-entropy attack was misled, "
            "not resisted. Dots are means over seeds, bars span the seeds.",
            "Strongest: "
            + sentence([f"{style.in_sentence(n)} {o} ({number(estimates[n][o][0])})" for n, o in best.items()])
            + ".",
            {"objectives": behind(table)},
            settings=ours(paper, "objectives"),
        )
    ]
