"""Which measure of a clean sample tells whether it survives an attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from regfast.data import ImageSet
from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Array, Columns, Given, Part, Rows, Work, as_columns, behind, ours
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.drawing import Drawing, sentence
from regfast.report.figures import dots
from regfast.report.results import attack_name
from regfast.report.tables import number
from regfast.representation import class_centers, class_means, default_radius, predictor_power, predictor_scores
from regfast.runs.files import read_columns
from regfast.statistics import partial_correlation
from regfast.training import predict

PREDICTORS = {
    "v_opt": "cosine to v_opt",
    "class_mean": "cosine to class mean",
    "weight": "cosine to weight vector",
    "norm": "norm",
    "margin": "margin",
    "confidence": "confidence",
}
HELD = ("norm", "margin", "confidence")  # what a partial correlation holds fixed
_LEAST = 10  # correct samples that a correlation given three others needs


class Predictors(Part):
    """AUC of each measure, its lead over v_opt's, and what is left of it given norm, margin and confidence."""

    name = "predictors"
    row = "a predictor"
    columns = {
        "regularizer": "", "attack": "", "predictor": "`v_opt`, `class_mean`, `weight`, `norm`, `margin`, `confidence`",
        "measure": "`auc` of surviving the attack; `lead`: its AUC minus v_opt's, paired; `partial`: rank correlation "
        "with surviving it given norm, margin and confidence", "value": "", "low": "", "high": "",
    }  # fmt: skip
    attacks = True

    def settings(self, given: Given) -> dict[str, Any]:
        return {
            "attack": f"autoattack-fast_{given.pgd('strong').norm}_weak",
            "interval": "95 % bootstrap over test images, mean over seeds",
        }

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        samples = read_columns(work.samples)
        rows = np.searchsorted(samples["sample"], outputs.samples.numpy())
        success = {attack.id: samples[f"success_{attack.id}"][rows].astype(bool) for attack in work.main.attacks}
        return as_columns(compute(outputs, work.train, success))

    def combined(self, table: Columns) -> Columns:
        return over_seeds(table)

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(outputs: Outputs, train: ImageSet | None, success: Mapping[str, Array]) -> Rows:
    """Rows of predictors.parquet for this model: which clean measure foretells surviving each attack.

    `success`: per attack id whether it flipped each test image. `lead` is a measure's AUC minus that of v_opt's cosine,
    on the same resamples. `partial` correlates a measure's rank with surviving,
    given norm, margin and confidence (those of them that it is not itself). Without training images there are no class
    means, and no cosine to them.
    """
    means = torch.zeros(outputs.weight.shape, dtype=torch.float64)
    if train is not None:
        features, _, labels = predict(outputs.model, train)
        means = class_means(features, labels, len(outputs.weight))
    centers = class_centers(outputs.weight, outputs.bias, radius=default_radius(outputs.features, outputs.correct))
    keep = outputs.correct
    scores = predictor_scores(
        outputs.features[keep], outputs.weight, outputs.bias, outputs.labels[keep], centers, means
    )
    names = [name for name in scores._fields if name != "class_mean" or train is not None]
    rows: Rows = []
    for attack, flipped in success.items():
        survived = ~flipped[keep.numpy()]
        if len(survived) < _LEAST:
            nothing = {"value": np.nan, "low": np.nan, "high": np.nan}
            rows += [
                {"attack": attack, "predictor": name, "measure": measure, **nothing}
                for measure in ("auc", "lead", "partial")
                for name in names
                if (measure, name) != ("lead", "v_opt")
            ]
            continue
        power = predictor_power(scores, survived)
        for name in names:
            given = np.stack([getattr(scores, other) for other in HELD if other != name], axis=1)
            left = partial_correlation(getattr(scores, name), survived, given, resamples=1000)
            lead = [] if name == "v_opt" else [("lead", power[name].over_v_opt)]
            for measure, found in (("auc", power[name].auc), *lead, ("partial", left)):
                rows.append(
                    {
                        "attack": attack,
                        "predictor": name,
                        "measure": measure,
                        "value": float(found.estimate),
                        "low": float(found.low),
                        "high": float(found.high),
                    }
                )
    return rows


def over_seeds(table: Columns) -> Columns:
    """Rows of predictors.parquet: value and interval as means over the seeds' own.

    The mean of the ends is wider than the interval of the mean: the same test images are in every seed.
    """
    keys = ("regularizer", "attack", "predictor", "measure")
    names = list(zip(*(table[key].tolist() for key in keys), strict=True))
    unique = list(dict.fromkeys(names))
    group = np.array([unique.index(name) for name in names])
    found = {key: np.array([name[place] for name in unique]) for place, key in enumerate(keys)}
    for column in ("value", "low", "high"):
        values = [table[column][group == place] for place in range(len(unique))]
        found[column] = np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in values])
    return found


def draw(paper: Paper) -> list[Drawing]:
    """Which measure tells the samples that survive from those that fall, and what is left of it given the others."""
    table = paper.tables["predictors"]
    names = paper.regularizers(table)
    titles = {a["id"]: attack_name(a) for a in paper.main.attacks}
    attack = str(paper.config.get("predictors", {}).get("attack", table["attack"].astype(str)[-1]))
    attack = titles.get(attack, attack)
    drawings = []
    for measure, title, xlabel, middle, look in (
        (
            "auc",
            "What predicts robustness best?",
            "AUC − ½ (0: no better than chance)",
            0.5,
            "How well each measure of a clean sample tells those that survive the attack from those that fall, "
            "within one model. Right of 0 predicts robustness, left of it the opposite; a hollow marker's interval "
            "contains 0.",
        ),
        (
            "partial",
            "What is left of the cosine?",
            "partial rank correlation with surviving",
            0.0,
            "The rank correlation of each measure with surviving the attack once norm, margin and confidence are "
            "held fixed. If the cosine's dot sits at 0, it foretold nothing that the others do not say already.",
        ),
    ):
        panels, found = {}, []
        for kind in dict.fromkeys(table["attack"].astype(str).tolist()):
            rows = where(table, measure=measure, attack=kind)
            if not len(rows["value"]):
                continue
            panels[titles.get(kind, kind)] = {
                n: {
                    PREDICTORS.get(str(p), str(p)): (float(v) - middle, float(lo) - middle, float(hi) - middle)
                    for p, v, lo, hi in zip(
                        *(where(rows, regularizer=n)[k] for k in ("predictor", "value", "low", "high")), strict=True
                    )
                }
                for n in names
            }
        if not panels:
            continue
        shown = panels.get(attack) or next(iter(panels.values()))
        for name, values in shown.items():
            if values:
                best = max(values, key=lambda k: values[k][0])
                found.append(f"{style.in_sentence(name)} {best} ({number(values[best][0] + middle)})")
        text = f"Largest, {attack if attack in panels else next(iter(panels))}: {sentence(found)}."
        if measure == "auc":
            text += _leads(table, names, next((k for k, v in titles.items() if v == attack), attack))
        order = [p for p in PREDICTORS.values() if any(p in v for t in panels.values() for v in t.values())]
        drawings.append(
            Drawing(
                f"predictors-{measure}",
                title,
                dots.draw({k.replace(" (", "\n("): v for k, v in list(panels.items())[-3:]}, xlabel, order),
                look,
                text,
                {"predictors": behind(where(table, measure=measure))},
                settings=ours(paper, "predictors"),
            )
        )
    return drawings


def _leads(table: Mapping[str, Array], names: Sequence[str], attack: str) -> str:
    """Of the three directions a cosine can be taken to, how far the other two lead v_opt."""
    text = ""
    for predictor in ("class_mean", "weight"):
        parts = []
        for name in names:
            rows = where(table, regularizer=name, attack=attack, measure="lead", predictor=predictor)
            if len(rows["value"]):
                value, low, high = (number(float(rows[key][0]), signed=True) for key in ("value", "low", "high"))
                parts.append(f"{style.in_sentence(name)} {value} [{low}, {high}]")
        if parts:
            text += f" The AUC of the {PREDICTORS[predictor]} minus that of v_opt's: {sentence(parts)}."
    return text
