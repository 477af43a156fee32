"""Which attacks transfer from one model to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from regfast.attacks import PGD, Adversary
from regfast.data import ImageArray
from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Columns, Given, Part, Rows, Work, as_columns, behind, ours
from regfast.paper.parts.counterfactual import mean
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.drawing import Drawing, sentence
from regfast.report.figures import matrix
from regfast.training import predict

_BATCH = 256


class Transfer(Part):
    """What PGD on one model, run to its last step, does to another."""

    name = "transfer"
    row = "a pair of models"
    columns = {
        "seed": "", "source": "a regularizer; where it is the target too, the white-box attack",
        "target": "a regularizer", "attack": "PGD on `source` run to its last step",
        "asr": "of `target`, on the samples that both classify correctly",
    }  # fmt: skip
    attacks = True

    def settings(self, given: Given) -> dict[str, Any]:
        return {
            "eps": [given.pgd("weak").eps, given.pgd("strong").eps],
            **given.attack,
            "samples": "test images that source and target both classify correctly",
        }

    def of_seed(self, work: Work, models: Mapping[str, Outputs]) -> Columns:
        rows: Rows = []
        norm, steps = work.settings["norm"], work.settings["steps"]
        for eps in work.settings["eps"]:
            name = f"PGD-{steps} to its last step, eps {eps:.3g}"
            rows += compute(models, norm=norm, eps=eps, steps=steps, name=name, seed=work.seed)
            work.advance()
        return as_columns(rows)

    def steps(self, settings: Mapping[str, Any]) -> int:
        return len(settings["eps"])

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(models: Mapping[str, Outputs], *, norm: str, eps: float, steps: int, name: str, seed: int) -> Rows:
    """Rows of transfer.parquet: what PGD on the source, run to its last step, does to the target.

    Counted are the images that both classify correctly. Pairs whose images differ in shape are left out.
    """
    rows: Rows = []
    for source, outputs in models.items():
        adversary, device = (
            Adversary(PGD(norm, eps, steps), keep="strongest", seed=seed),
            outputs.model.head.weight.device,
        )
        batches = zip(outputs.images().split(_BATCH), outputs.labels.split(_BATCH), strict=True)
        attacked = [adversary(outputs.model, images.to(device), labels.to(device)).cpu() for images, labels in batches]
        left = ImageArray(torch.cat(attacked), outputs.labels, outputs.test.classes)
        for target, other in models.items():
            if other.test[0][0].shape != left[0][0].shape:
                continue
            fooled = predict(other.model, left)[1].argmax(1) != other.labels
            both = outputs.correct & other.correct
            asr = float(fooled[both].double().mean()) if bool(both.any()) else float("nan")
            rows.append({"source": source, "target": target, "attack": name, "asr": asr})
    return rows


def draw(paper: Paper) -> list[Drawing]:
    """Whose adversarial examples fool whom."""
    table = paper.tables["transfer"]
    names = [n for n in paper.main.regularizers if n in set(table["source"].astype(str).tolist())]
    attacks = list(dict.fromkeys(table["attack"].astype(str).tolist()))[-3:]
    tables = {
        a: np.array([[mean(where(table, source=s, target=t, attack=a)["asr"]) for t in names] for s in names])
        for a in attacks
    }
    found = []
    for title, rates in tables.items():
        for place, name in enumerate(names):
            others = np.delete(rates[:, place], place)
            if len(others) and np.isfinite(others).any() and np.nanmax(others) > rates[place, place]:
                found.append(
                    f"{style.in_sentence(name)} ({title}) falls more to another model's examples than to its own"
                )
    return [
        Drawing(
            "transfer",
            "Transfer: is the robustness only against its own gradient?",
            matrix.draw(tables, names, "made on", "tried on"),
            "Attack success rate of the examples made on the row's model, on the column's, among the images that both "
            "classify correctly. The attack on the source goes all its steps and keeps the point of largest loss; it "
            "does not stop at the first that fools the source. A model whose column is brighter off the framed "
            "diagonal than on it has a gradient that misleads, not a boundary that is further away.",
            f"{found[0][0].upper()}{sentence(found)[1:]}."
            if found
            else "No model falls more to another model's examples than to its own.",
            {"transfer": behind(table)},
            settings=ours(paper, "transfer"),
        )
    ]
