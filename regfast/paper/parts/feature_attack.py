"""Attacks on the features themselves, against the bound that no attack can beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Array, Columns, Given, Part, Work, behind, ours
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.claims import Verdict, ratio
from regfast.report.drawing import Drawing
from regfast.report.figures import feature_attack as figure
from regfast.report.tables import listed, number
from regfast.representation import boundary_distance, fooling_radius
from regfast.statistics import paired_difference

CLAIM = "Attacks on the features succeed less"
RELATIVE, ABSOLUTE = "radius ε, in units of the feature's own norm", "radius ε, the same for all models"


class FeatureAttack(Part):
    """The least radius in feature space at which each attack succeeds."""

    name = "feature_attack"
    row = "a sample"
    columns = {
        "regularizer": "", "seed": "", "sample": "", "label": "", "correct": "", "norm": "",
        "exact": "distance to the nearest boundary, the bound of every attack; this and the next three are least l2 "
        "radii in feature space, inf where none is, 0 where the sample is wrong already",
        "straight": "one step along the cross-entropy gradient",
        "cross_entropy": "multi-step PGD, `representation.fooling_radius`", "margin": "likewise, on the margin",
    }  # fmt: skip

    def settings(self, given: Given) -> dict[str, Any]:
        return {
            "attack": "PGD on the features",
            "norm": "l2",
            "steps": given.steps,
            "samples": "test images that are classified correctly",
        }

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        return compute(outputs, work.settings["steps"])

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)

    def verdicts(self, paper: Paper) -> list[Verdict]:
        return verdicts(paper)


def compute(outputs: Outputs, steps: int) -> dict[str, Array]:
    """Columns of feature_attack.parquet: the least radius at which each attack on the feature succeeds.

    `exact`: the strongest attack there is; `straight`: one step along the cross-entropy gradient; `cross_entropy` and
    `margin`: multi-step PGD.
    """
    head = (outputs.features, outputs.weight, outputs.bias, outputs.labels)
    way = boundary_distance(*head)
    return {
        "sample": outputs.samples.numpy(),
        "label": outputs.labels.numpy(),
        "correct": outputs.correct.numpy(),
        "norm": outputs.features.double().norm(dim=1).numpy(),
        "exact": way.distance.numpy(),
        "straight": way.gradient_distance.numpy(),
        "cross_entropy": fooling_radius(*head, steps=steps).numpy(),
        "margin": fooling_radius(*head, steps=steps, objective="margin").numpy(),
    }


def radii(paper: Paper) -> dict[str, dict[str, figure.Radii]]:
    """Per unit and regularizer the radii at which the correct samples fall, a seed each."""
    table = paper.tables["feature_attack"]
    found: dict[str, dict[str, figure.Radii]] = {RELATIVE: {}, ABSOLUTE: {}}
    for name in paper.regularizers(table):
        rows = where(where(table, regularizer=name), correct=True)
        seeds = [where(rows, seed=seed) for seed in np.unique(table["seed"])]
        for unit, divide in ((RELATIVE, True), (ABSOLUTE, False)):
            found[unit][name] = figure.Radii(
                *([r[key] / (r["norm"] if divide else 1.0) for r in seeds] for key in ("cross_entropy", "exact"))
            )
    return found


def decisive(found: dict[str, dict[str, figure.Radii]]) -> dict[str, float]:
    """Per unit the radius of the verdicts: where an exact attack flips half of the first regularizer's samples."""
    return {unit: float(np.median(np.concatenate(next(iter(m.values())).exact))) for unit, m in found.items()}


def draw(paper: Paper) -> list[Drawing]:
    """Success of PGD on the features over its radius, and the bound that the exact distance sets."""
    table = paper.tables["feature_attack"]
    found, attack = radii(paper), attack_words(paper)
    marks = decisive(found)
    text = []
    for unit, words in ((RELATIVE, "of the feature's norm"), (ABSOLUTE, "for all")):
        rates = [
            {
                n: float(np.nanmean(figure.success(getattr(m, key), np.array([marks[unit]]))))
                for n, m in found[unit].items()
            }
            for key in ("attack", "exact")
        ]
        reached, bound = (listed(rate) for rate in rates)
        text.append(f"At ε = {number(marks[unit])} {words} {attack} flips {reached}; an exact attack {bound}.")
    factors: dict[str, dict[str, float]] = {}
    for key in ("cross_entropy", "margin"):
        factors[key] = {}
        for name in paper.regularizers(table):
            rows = where(where(table, regularizer=name), correct=True)
            keep = rows["exact"] > 0
            ratio = rows[key][keep] / rows["exact"][keep]
            factors[key][name] = float(np.median(ratio)) if keep.any() else float("nan")
    text.append(
        f"The radius that {attack} needs, in exact distances (median): {listed(factors['cross_entropy'])}; with the "
        f"margin in place of the cross-entropy {listed(factors['margin'])}."
    )
    return [
        Drawing(
            "feature-attack",
            "Attacks on the features themselves",
            figure.draw(found, f"{attack}, cross-entropy", marks),
            f"{attack} on the feature through the head, with no network in between. Dashed: the exact distance to the "
            "nearest boundary, which no attack can beat. A solid line far below its own dashed one is a gradient that "
            "misleads; regularizers whose dashed lines differ have boundaries at different distances. Left: radii in "
            "units of each feature's norm, so that a model gains nothing by longer features. Right: one radius for "
            "all. Correctly classified samples; lines are means over seeds, bands span the seeds, the dotted line is "
            "where verdicts are given.",
            " ".join(text),
            {"radii": behind(table)},
            settings=f"{ours(paper, 'feature_attack')} Verdicts are given where an exact attack flips half of the "
            f"correct samples of {style.in_sentence(next(iter(found[RELATIVE])))}, ours: "
            f"ε = {number(marks[RELATIVE])} of the norm, and ε = {number(marks[ABSOLUTE])}.",
        )
    ]


def attack_words(paper: Paper) -> str:
    """`PGD-40`, as far as the run says."""
    steps = (paper.config.get("feature_attack") or {}).get("steps")
    return f"PGD-{steps}" if steps else "PGD"


def verdicts(paper: Paper, resamples: int = 2000, seed: int = 0) -> list[Verdict]:
    """Whether attacks on the features succeed less than with the reference: PGD and the exact one, in both units."""
    table, reference = paper.tables.get("feature_attack"), paper.main.reference
    if table is None or reference not in paper.regularizers(table):
        return []
    names, marks, attack = paper.regularizers(table), decisive(radii(paper)), attack_words(paper)
    measures = [
        (f"ASR, {words} (ε = {number(marks[unit])}{of})", key, unit)
        for unit, of in ((RELATIVE, " of the norm"), (ABSOLUTE, ""))
        for words, key in ((attack, "cross_entropy"), ("exact attack", "exact"))
    ]
    rows = {name: [_hits(table, name, s, measures, marks) for s in np.unique(table["seed"])] for name in names}
    before = np.nanmean([_rates(r[None])[0] for r in rows[reference]], axis=0)
    found = []
    for name in names:
        if name == reference:
            continue
        change = paired_difference(
            rows[name], rows[reference], _rates, resamples=resamples, seed=seed, grouped=True, shared_samples=True
        )
        for k, (measure, _, _) in enumerate(measures):
            effect, low, high = (float(end[k]) for end in change)
            start = float(before[k])
            found.append(Verdict(CLAIM, measure, name, -1, start, start + effect, effect, low, high))
    return found


def _hits(table: Columns, name: str, seed: Any, measures: list[tuple[str, str, str]], marks: dict[str, float]) -> Array:
    """(n, measures + 1): what each attack flips of the correct samples, and which those are."""
    rows = where(where(table, regularizer=name), seed=seed)
    order = np.argsort(rows["sample"], kind="stable")
    correct = rows["correct"][order].astype(float)
    hits = []
    for _, key, unit in measures:
        reach = marks[unit] * (rows["norm"] if unit == RELATIVE else 1.0)
        hits.append((rows[key] <= reach)[order] * correct)
    return np.stack([*hits, correct], axis=-1)


def _rates(rows: Array) -> Array:
    """(R, n, measures + 1) → (R, measures)."""
    sums = rows.sum(axis=1)
    return ratio(sums[:, :-1], sums[:, -1:])
