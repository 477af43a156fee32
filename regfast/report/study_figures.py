"""The figures of a study: which arrays each family gets, what to look for in it, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from regfast.calibration.bins import expected_calibration_error, reliability_bins
from regfast.report import style
from regfast.report.claims import main_attack
from regfast.report.drawing import Drawing, sentence, stack
from regfast.report.figures import curves, distributions, glance, representation, sweep
from regfast.report.figures.bins import rates, shared_edges, thin
from regfast.report.results import NORMS, Study, attack_name
from regfast.report.tables import listed, number

Array = npt.NDArray[Any]
COLUMNS = 3  # attacks side by side


def alphas(config: Mapping[str, Any]) -> str:
    """The regularizers' strengths of config.json in words: "label smoothing α = 0.1, Mixup α = 1"."""
    parts = []
    for name, params in config.get("regularizers", {}).items():
        values = [
            f"{'α' if key in ('alpha', 'smoothing') else key} = {f'{value:g}' if isinstance(value, float) else value}"
            for key, value in (params or {}).items()
            if value is not None
        ]
        if values:
            parts.append(f"{style.in_sentence(name)} {', '.join(values)}")
    return ", ".join(parts)


def training(study: Study) -> str:
    """What the paper leaves open in training: strengths, epochs, seeds; of networks that were measured, how many."""
    epochs, seeds = study.config.get("epochs", "–"), len(study.seeds)
    if study.config.get("kind") == "measure":
        return f"{len(study.regularizers)} trained networks, {seeds} checkpoint{'s' * (seeds != 1)} each"
    return f"{alphas(study.config)}; {epochs} epochs; {seeds} seed{'s' * (seeds != 1)}"


def attack_settings(attacks: Sequence[Mapping[str, Any]]) -> str:
    """The attacks with their norm, ε, steps and restarts."""
    return "; ".join(
        attack_name(a) + (f", {a['restarts']} restarts" if (a.get("restarts") or 1) > 1 else "") for a in attacks
    )


def drawings(study: Study) -> list[Drawing]:
    """Every figure that the files of ``study`` allow, in the page's order."""
    found = representation_figures(study)
    if len(study.sweep):
        found += sweep_figures(study)
    if len(study.curves) and len(study.curves["epoch"]):
        found.append(curve_figure(study))
    if any(f"toward_origin_{a['id']}" in study.samples for a in study.attacks):
        found.append(displacement_figure(study))
    return found


def glance_figure(study: Study) -> Drawing:
    """Fig. 3 in small, for the first screen."""
    attack = main_attack(study)
    parts = ["Magnitude over cosine, the large mark at the medians", "accuracy over confidence"]
    if attack:
        parts.insert(1, f"success of {attack_name(attack)} over cosine")
    return Drawing(
        "glance",
        "Fig. 3 in small",
        glance.draw(models(study, "rms", "cosine"), representation.attack_style(attack) if attack else None),
        f"Fig. 3 in small: {'; '.join(parts)}.",
        "The figure in full says what was found.",
    )


def representation_figures(study: Study) -> list[Drawing]:
    """The paper's Fig. 3 for this data: with raw cosines, as the paper has it, and with the in-span parts."""
    found = [_representation(study, "representation", "rms", "cosine", "Representation, robustness and calibration")]
    if "cosine_in_span" in study.samples and "rms_in_span" in study.samples:
        found.append(
            _representation(
                study,
                "representation-in-span",
                "rms_in_span",
                "cosine_in_span",
                "The same, in-span part of the features only",
            )
        )
    return found


def models(study: Study, rms: str, cosine: str) -> list[representation.Model]:
    """The columns of Fig. 3: seeds pooled, ECE the mean over seeds."""
    result = []
    for name in study.regularizers:
        confidence, correct = study.column("confidence", name), study.column("correct", name)
        ece = float(np.mean([expected_calibration_error(c, r) for c, r in zip(confidence, correct, strict=True)]))
        success = {a["id"]: study.column(f"success_{a['id']}", name).ravel() for a in study.attacks}
        result.append(
            representation.Model(
                name,
                study.column(rms, name).ravel(),
                study.column(cosine, name).ravel(),
                confidence.ravel(),
                correct.ravel(),
                study.judged(name).ravel(),
                success,
                ece,
            )
        )
    return result


def _representation(study: Study, name: str, rms: str, cosine: str, title: str) -> Drawing:
    columns = models(study, rms, cosine)
    in_span = name.endswith("in-span")
    figure = representation.draw(
        columns,
        [representation.attack_style(a) for a in study.attacks],
        cosine_label="in-span cosine" if in_span else "cosine to v_opt",
        rms_label="in-span RMS" if in_span else "feature RMS",
        with_reliability=not in_span,
    )
    look = (
        "The same axes in every column. Top: does the cloud sink (smaller magnitude) and move right (toward the "
        "class center), and where are the confident samples? Second row: does the attack success rate (ASR) fall "
        "from left to right? It counts correctly classified samples only, in bins that are joined until each holds "
        f"{representation.LEAST}. Third row: how many samples each bin holds. Bottom: bars below the "
        "diagonal are over-confident; the fainter a bar, the fewer samples it stands for."
    )
    if in_span:
        look = (
            "As the figure before, but only with the component of the features that moves the softmax (the row space "
            "of the centered head): the rest dilutes the raw cosine without changing any prediction."
        )
    drawn = min(representation.POINTS, columns[0].rms.size)
    look += f" {drawn} of {columns[0].rms.size} points drawn per panel, evenly picked, all seeds."
    rms_of = {m.regularizer: float(np.median(m.rms)) for m in columns}
    cosine_of = {m.regularizer: float(np.median(m.cosine)) for m in columns}
    found = f"Median RMS: {listed(rms_of)}. Median cosine: {listed(cosine_of)}."
    if study.attacks:
        found += asr_along_cosine(columns, study.attacks[-1])
    if not in_span:
        found += f" ECE: {listed({m.regularizer: m.ece for m in columns})}."
    settings = f"Ours: {training(study)}; v_opt at the median norm of each model's correct features; "
    settings += "" if in_span else f"{representation.RELIABILITY_BINS} bins of equal width in the ECE; "
    settings += f"attacks: {attack_settings(study.attacks)}."
    data = _representation_data(study, columns, in_span)
    return Drawing(name, title, figure, look, found, data, settings=settings, paper=() if in_span else (3,))


def asr_along_cosine(columns: Sequence[representation.Model], attack: Mapping[str, Any]) -> str:
    """How the ASR of ``attack`` goes from the lowest to the highest bin of cosine that is drawn, per model."""
    edges = shared_edges([m.cosine for m in columns], representation.COSINE_BINS)
    parts = []
    for m in columns:
        _, drawn = representation.asr_over_cosine(m, attack["id"], edges)
        if len(drawn) > 1:
            parts.append(f"{style.in_sentence(m.regularizer)} {number(float(drawn[0]))} to {number(float(drawn[-1]))}")
    return f" ASR from the lowest to the highest bin, {attack_name(attack)}: {sentence(parts)}." if parts else ""


def _representation_data(
    study: Study, columns: list[representation.Model], in_span: bool
) -> dict[str, dict[str, list[Any]]]:
    edges = shared_edges([m.cosine for m in columns], representation.COSINE_BINS)
    points, cosines, bars = [], [], []
    for m in columns:
        for k in thin(len(m.rms), representation.POINTS):
            points.append(
                {"regularizer": m.regularizer, "cosine": m.cosine[k], "rms": m.rms[k], "confidence": m.confidence[k]}
            )
        count, _ = rates(m.cosine, m.correct, edges)
        per_attack = {a: rates(m.cosine[m.judged], s[m.judged], edges) for a, s in m.success.items()}
        correct = m.correct.astype(bool)
        right, _ = rates(m.cosine[correct], m.correct[correct], edges)
        for k in range(len(count)):
            cosines.append(
                {
                    "regularizer": m.regularizer,
                    "low": edges[k],
                    "high": edges[k + 1],
                    "samples": count[k],
                    "correct": right[k],
                }
                | {f"asr_{a}": rate[k] for a, (_, rate) in per_attack.items()}
            )
        bins = reliability_bins(m.confidence, m.correct, representation.RELIABILITY_BINS)
        for k in range(len(bins.counts)):
            bars.append(
                {
                    "regularizer": m.regularizer,
                    "low": bins.edges[k],
                    "high": bins.edges[k + 1],
                    "samples": bins.counts[k],
                    "mean_confidence": bins.confidence[k],
                    "accuracy": bins.accuracy[k],
                }
            )
    data = {"points": stack(points), "cosine-bins": stack(cosines)}
    return data if in_span else data | {"reliability": stack(bars)}


def sweep_figures(study: Study) -> list[Drawing]:
    """ASR over eps: one figure per attack and norm in sweep.parquet."""
    found = []
    kinds = sorted(
        set(zip(study.sweep["attack"].astype(str).tolist(), study.sweep["norm"].astype(str).tolist(), strict=True))
    )
    for attack, norm in kinds:
        lines, eps = {}, np.array([])
        for name in study.regularizers:
            per_seed = []
            for seed in study.seeds:
                rows = study.rows(study.sweep, regularizer=name, seed=seed, attack=attack, norm=norm)
                order = np.argsort(rows["eps"], kind="stable")
                eps = rows["eps"][order]
                per_seed.append(rows["asr"][order])
            lines[name] = np.stack(per_seed)
        linf = norm == "linf"
        figure = sweep.draw(eps, lines, xlabel=f"ε ({NORMS.get(norm, norm)}, images in [0, 1])", pixels=linf)
        half = {name: sweep.smallest_eps(eps, rate.mean(axis=0)) for name, rate in lines.items()}
        parts = [
            f"{style.in_sentence(n)} {'beyond the sweep' if np.isnan(e) else f'at {e:.3g}'}" for n, e in half.items()
        ]
        best = max(half, key=lambda n: np.inf if np.isnan(half[n]) else half[n])
        found.append(
            Drawing(
                f"asr-over-eps-{attack}-{norm}",
                f"Attack success over the perturbation size, {attack.upper()} in {NORMS.get(norm, norm)}",
                figure,
                "A line further right or lower resists longer. Where the lines cross, the order of the regularizers "
                "depends on ε. Lines are means over seeds, bands span the seeds.",
                f"Half of the correctly classified samples are flipped: {sentence(parts)}. {style.label(best)} lasts "
                "longest.",
                {
                    "sweep": stack(
                        [
                            {"regularizer": n, "seed": s, "eps": e, "asr": rate[k, j]}
                            for n, rate in lines.items()
                            for k, s in enumerate(study.seeds)
                            for j, e in enumerate(eps)
                        ]
                    )
                },
                settings=f"Ours: {training(study)}; {_steps(study)}ε as on the axis.",
            )
        )
    return found


def _steps(study: Study) -> str:
    steps = (study.config.get("sweep") or {}).get("steps")
    return f"{steps} steps; " if steps else ""


def curve_figure(study: Study) -> Drawing:
    """RMS, cosine and what training sees, over the epochs."""
    wanted = {
        "rms": "feature RMS",
        "cosine": "cosine to the center",
        "cosine_in_span": "cosine, in-span part",
        "loss": "training loss",
        "accuracy": "held-out accuracy",
    }
    epochs, lines = {}, {title: {} for column, title in wanted.items() if column in study.curves}  # type: ignore[var-annotated]
    for name in study.regularizers:
        tables = [study.rows(study.curves, regularizer=name, seed=seed) for seed in study.seeds]
        shortest = min(len(t["epoch"]) for t in tables)
        orders = [np.argsort(t["epoch"], kind="stable")[:shortest] for t in tables]
        epochs[name] = tables[0]["epoch"][orders[0]]
        for column, title in wanted.items():
            if column in study.curves:
                lines[title][name] = np.stack([t[column][o] for t, o in zip(tables, orders, strict=True)]).astype(float)
    parts = [
        f"{style.in_sentence(n)} {number(float(v[:, 0].mean()))} to {number(float(v[:, -1].mean()))}"
        for n, v in lines["feature RMS"].items()
    ]
    turns = [
        f"{style.in_sentence(n)} {number(float(v[:, 0].mean()))} to {number(float(v[:, -1].mean()))}"
        for n, v in lines["cosine to the center"].items()
    ]
    rows = [
        {"regularizer": n, "seed": s, "epoch": e} | {title: line[n][k, j] for title, line in lines.items()}
        for n in study.regularizers
        for k, s in enumerate(study.seeds)
        for j, e in enumerate(epochs[n])
    ]
    return Drawing(
        "training-curves",
        "How the representation moves while training",
        curves.draw(epochs, lines),
        "When do the regularizers part, and is the gap in magnitude there from the start or does hard-label training "
        "keep growing it? Lines are means over seeds, bands span the seeds.",
        f"From the first epoch to the last, RMS goes: {sentence(parts)}. Cosine: {sentence(turns)}.",
        {"curves": stack(rows)},
        settings=f"Ours: {training(study)}; held-out images, v_opt at the median norm of those that are right.",
    )


def radial_share(study: Study, attack: str, regularizer: str) -> float:
    """Radial part of the squared displacement of the features, summed over the correct samples of all seeds."""
    judged = study.judged(regularizer)
    radial, across = (study.column(f"{part}_{attack}", regularizer)[judged] for part in ("radial", "tangential"))
    total = np.nansum(radial**2 + across**2)
    return float(np.nansum(radial**2) / total) if total > 0 else float("nan")


def displacement_figure(study: Study) -> Drawing:
    """Where each attack moved the features of the samples it attacked."""
    measured = [a for a in study.attacks if f"toward_origin_{a['id']}" in study.samples]
    attacks = ([a for a in measured if a.get("setting") != "weak"] or measured)[:COLUMNS]
    cosines: dict[str, dict[str, Array]] = {}
    rows, parts = [], []
    edges = np.linspace(-1, 1, 31)
    for attack in attacks:
        title = attack_name(attack).replace(" (", "\n(")
        cosines[title] = {}
        means, shares = [], {}
        for name in study.regularizers:
            values = study.column(f"toward_origin_{attack['id']}", name)[study.judged(name)]
            values = values[np.isfinite(values)]
            cosines[title][name] = values
            if not len(values):
                continue
            means.append(f"{style.in_sentence(name)} {number(float(values.mean()))}")
            shares[name] = radial_share(study, attack["id"], name)
            count = np.histogram(values, edges)[0]
            rows += [
                {
                    "attack": attack["id"],
                    "regularizer": name,
                    "low": edges[k],
                    "high": edges[k + 1],
                    "samples": count[k],
                }
                for k in range(30)
            ]
        if means:
            radial = sentence([f"{style.in_sentence(n)} {share:.0%}" for n, share in shares.items()])
            parts.append(
                f"{attack_name(attack)}: {sentence(means)}; radial share of the squared displacement {radial}."
            )
    return Drawing(
        "toward-origin",
        "Does the attack push features toward the origin?",
        distributions.draw(cosines, edges, "cosine with the direction to the origin"),
        "Cosine between the displacement of the feature and the direction to the origin: 1 is straight inward, 0 "
        "across, −1 outward. The vertical line is the mean. Correctly classified samples, all seeds; strong settings "
        "where there are several.",
        f"Mean cosine. {' '.join(parts)}" if parts else "No sample was attacked.",
        {"histogram": stack(rows)},
        settings=f"Ours: {training(study)}; attacks: {attack_settings(attacks)}.",
    )
