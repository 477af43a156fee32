"""The figures that go beyond the paper: predictors, swaps, misdirected gradients, transfer and neural collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from regfast.report import style
from regfast.report.drawing import Drawing, sentence
from regfast.report.feature_attack import feature_attack_figures
from regfast.report.figures import curves, distributions, dots, matrix
from regfast.report.paper_figures import columns, ours
from regfast.report.paper_results import Paper, where
from regfast.report.results import attack_name
from regfast.report.tables import listed, number

Array = npt.NDArray[Any]
PREDICTORS = {
    "v_opt": "cosine to v_opt",
    "class_mean": "cosine to class mean",
    "weight": "cosine to weight vector",
    "norm": "norm",
    "margin": "margin",
    "confidence": "confidence",
}
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


def predictor_figures(paper: Paper) -> list[Drawing]:
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
                {"predictors": columns(where(table, measure=measure))},
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


def boundary_figures(paper: Paper) -> list[Drawing]:
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
            {"distances": columns(table)},
            settings=ours(paper, "boundary"),
        )
    ]


def counterfactual_figures(paper: Paper) -> list[Drawing]:
    """One model's norms on another model's directions."""
    table = paper.tables["counterfactual"]
    present = set(table["norms"].astype(str).tolist()) | set(table["directions"].astype(str).tolist())
    names = [n for n in paper.main.regularizers if n in present]
    shown = {"ece": "ECE", "distance": "distance to the boundary", "asr": "ASR of a feature attack"}
    tables = {
        title: np.array([[_mean(where(table, norms=c, directions=r)[key]) for c in names] for r in names])
        for key, title in shown.items()
    }
    found = []
    if "hard" in names and len(names) > 1:
        hard = names.index("hard")
        for title, values in tables.items():
            norms = {n: float(values[hard, k]) for k, n in enumerate(names) if n != "hard"}
            directions = {n: float(values[k, hard]) for k, n in enumerate(names) if n != "hard"}
            found.append(
                f"{title[0].upper()}{title[1:]}: hard labels have {number(values[hard, hard])}; with the others' "
                f"norms {listed(norms)}; with the others' directions and head {listed(directions)}."
            )
    return [
        Drawing(
            "counterfactual",
            "Cause or companion: swapped norms and directions",
            matrix.draw(tables, names, "directions and head from", "norms from"),
            "The framed diagonal is the models as they are. Along a row only the norms change. If a row's colour "
            "changes as the columns' does, the magnitude is what matters; if a column's does, the directions are.",
            " ".join(found),
            {"swaps": columns(table)},
            settings=ours(paper, "counterfactual"),
        )
    ]


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def transfer_figures(paper: Paper) -> list[Drawing]:
    """Whose adversarial examples fool whom."""
    table = paper.tables["transfer"]
    names = [n for n in paper.main.regularizers if n in set(table["source"].astype(str).tolist())]
    attacks = list(dict.fromkeys(table["attack"].astype(str).tolist()))[-3:]
    tables = {
        a: np.array([[_mean(where(table, source=s, target=t, attack=a)["asr"]) for t in names] for s in names])
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
            {"transfer": columns(table)},
            settings=ours(paper, "transfer"),
        )
    ]


def objective_figures(paper: Paper) -> list[Drawing]:
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
            {"objectives": columns(table)},
            settings=ours(paper, "objectives"),
        )
    ]


def collapse_figures(paper: Paper) -> list[Drawing]:
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
            {"collapse": columns(table)},
            settings=f"NC1 is tr(Σ_W Σ_B⁺)/K; NC2 lengths: standard deviation over mean; NC2 angles: mean absolute "
            f"deviation from −1/(K−1); NC3: distance of head and means, each over its Frobenius norm. "
            f"{ours(paper, 'collapse')}",
        )
    ]


PARTS: dict[str, Callable[[Paper], list[Drawing]]] = {
    "predictors": predictor_figures,
    "counterfactual": counterfactual_figures,
    "boundary": boundary_figures,
    "feature_attack": feature_attack_figures,
    "objectives": objective_figures,
    "transfer": transfer_figures,
    "collapse": collapse_figures,
}
