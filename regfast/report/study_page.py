"""What the page of a study says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from regfast.report import style
from regfast.report.claims import Verdict
from regfast.report.drawing import Drawing, sentence
from regfast.report.page import Page, Section, VerdictGroup
from regfast.report.results import Study, attack_name
from regfast.report.tables import metrics_table


def study_page(study: Study, drawings: Sequence[Drawing], verdicts: Sequence[Verdict]) -> Page:
    """The page of ``study``: verdicts, tables, figures, settings, environment."""
    config = study.config
    data, model = str(config.get("dataset", "unknown data")), str(config.get("model", "unknown model"))
    counts = {answer: sum(v.answer == answer for v in verdicts) for answer in ("holds", "does not hold", "undecided")}
    samples = len(study.order[study.regularizers[0]][0])
    lead = (
        f"Soft labels change where a classifier puts its features. This study trains {model} on {data} with "
        f"{sentence([style.in_sentence(r) for r in study.regularizers])}, attacks each model, and asks whether the "
        "effects that the paper reports appear on this data. "
    )
    if verdicts:
        lead += (
            f"Of {len(verdicts)} comparisons, the claim holds in {counts['holds']}, does not hold in "
            f"{counts['does not hold']} and is undecided in {counts['undecided']}."
        )
    seeds = len(study.seeds)
    note = chance_note(len(verdicts), seeds)
    return Page(
        title=f"How soft labels reshape the representation space: {data}",
        lead=lead,
        facts=[
            ("Data", data),
            ("Model", model),
            ("Test samples", str(samples)),
            ("Seeds", str(seeds)),
            ("Epochs", str(config.get("epochs", "–"))),
        ],
        verdicts=[VerdictGroup("", verdicts, study.regularizers)] if verdicts else [],
        verdict_note=note,
        sections=[
            Section("figures", "Figures", drawings=drawings),
            Section("measures", "Tables", tables=[metrics_table(study)]),
        ],
        settings=settings(config),
        environment=environment(config),
    )


def chance_note(comparisons: int, seeds: int) -> str:
    """What a reader must know about so many intervals over so few seeds."""
    note = (
        f"About one comparison in twenty can come out wrong by chance alone; with {comparisons} of them, expect some."
    )
    if seeds == 1:
        return note + " With one seed the intervals cover the choice of test samples only, not the training."
    if seeds < 5:
        note += f" {seeds} seeds are few: intervals over so few trainings are rather too narrow than too wide."
    return note


def study_name(study: Study) -> str:
    """Data set and model of a study."""
    return f"{study.config.get('dataset', 'unknown data')}, {study.config.get('model', 'unknown model')}"


def settings(config: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """The settings of a run in words; the third entry says whether the paper's public text leaves the value open."""
    rows = [
        ("Data set", str(config.get("dataset", "–")), False),
        ("Model", str(config.get("model", "–")), False),
        ("Epochs", str(config.get("epochs", "–")), True),
        ("Seeds", ", ".join(map(str, config.get("seeds", []))), True),
    ]
    for name, params in config.get("regularizers", {}).items():
        rows.append(
            (
                style.label(name),
                ", ".join(f"{k} = {v}" for k, v in (params or {}).items()) or "no parameters",
                name != "hard",
            )
        )
    for attack in config.get("attacks", []):
        parts = [f"{k} = {attack[k]}" for k in ("eps", "steps", "restarts") if attack.get(k) is not None]
        rows.append((f"Attack {attack['id']}", f"{attack_name(attack)}: {', '.join(parts)}", True))
    sweep = config.get("sweep") or {}
    if sweep:
        rows.append(
            (
                "Sweep",
                f"{sweep.get('attack')}, {sweep.get('norm')}, ε = "
                + ", ".join(f"{e:.4g}" for e in sweep.get("eps", [])),
                True,
            )
        )
    shown = {
        "dataset",
        "model",
        "epochs",
        "seeds",
        "regularizers",
        "attacks",
        "sweep",
        "environment",
        "version",
        "command",
    }
    rows += [(str(key), words(value), True) for key, value in config.items() if key not in shown and value is not None]
    return rows


def words(value: Any) -> str:
    """A value of config.json for readers: mappings as "key = value", lists joined."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} = {words(v)}" for k, v in value.items())
    return ", ".join(map(words, value)) if isinstance(value, (list, tuple)) else str(value)


def environment(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The command, and what machine and versions it ran on."""
    rows = [("command", str(config.get("command", "–")))]
    return rows + [(str(k), str(v)) for k, v in (config.get("environment") or {}).items()]
