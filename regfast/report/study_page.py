"""What the page of a study says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from regfast.report import style
from regfast.report.claims import Verdict
from regfast.report.drawing import Drawing, sentence
from regfast.report.page import Page, Section, VerdictGroup, verdict_cards
from regfast.report.results import Study, attack_name
from regfast.report.study_figures import glance_figure
from regfast.report.tables import metrics_table


def study_page(study: Study, drawings: Sequence[Drawing], verdicts: Sequence[Verdict]) -> Page:
    """The page of ``study``: verdicts, tables, figures, settings, environment."""
    config = study.config
    data = str(config.get("dataset", "unknown data"))
    several = f"{len(study.regularizers)} networks" if len(study.regularizers) > 1 else study.regularizers[0]
    return Page(
        title=f"The representation space of {several} on {data}"
        if config.get("kind") == "measure"
        else f"How soft labels reshape the representation space: {data}",
        notice=notice(study),
        lead=f"{what_ran(study)} Does what the paper reports of soft labels appear here? Each answer compares with "
        f"{style.in_sentence(study.reference)}, with its 95 % interval.",
        facts=facts(study),
        cards=verdict_cards(verdicts, study.reference),
        glance=glance_figure(study),
        glance_of="representation",
        verdicts=[VerdictGroup("", verdicts, study.regularizers)] if verdicts else [],
        verdict_note=chance_note(len(verdicts), len(study.seeds)),
        sections=[
            Section("figures", "Figures", drawings=drawings),
            Section("measures", "Tables", tables=[metrics_table(study)]),
        ],
        settings=settings(config),
        environment=environment(config),
    )


def what_ran(study: Study) -> str:
    """One sentence: what was trained or measured, and on what."""
    names = sentence([style.in_sentence(name) for name in study.regularizers])
    data, model = study.config.get("dataset", "unknown data"), study.config.get("model", "unknown model")
    if study.config.get("kind") == "measure":
        return f"{names}: measured and attacked on the same images."
    return f"{model} was trained on {data} with {names}; each model was measured and attacked on the same test images."


def facts(study: Study) -> list[tuple[str, str]]:
    """How much data, and how many trainings, stand behind the page."""
    samples = study.order[study.regularizers[0]].shape[1]
    found = [("Test images", f"{samples:,}"), ("Seeds", str(len(study.seeds)))]
    if "attacked" in study.samples:
        found.insert(1, ("Attacked", f"{int(study.column('attacked', study.regularizers[0])[0].sum()):,}"))
    return [*found, ("Epochs", str(study.config["epochs"]))] if "epochs" in study.config else found


LEAST = 200  # test images, below which a single training shows nothing


def notice(study: Study, command: str = "") -> str:
    """That a smoke run, or one as small, shows nothing; "" for any other run. ``command`` is by default the study's."""
    samples, seeds = study.order[study.regularizers[0]].shape[1], len(study.seeds)
    smoke = re.search(r"--size[= ]smoke\b", command or str(study.config.get("command", "")))
    tiny = "epochs" in study.config and seeds == 1 and samples < LEAST
    if not (smoke or tiny):
        return ""
    size = ", ".join(f"{name[0].lower()}{name[1:]}: {value}" for name, value in facts(study))
    return f"{'Smoke' if smoke else 'Tiny'} run ({size}). It shows that everything works. What it finds means nothing."


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
        *([("Model", str(config["model"]), False)] if "model" in config else []),
        *([("Epochs", str(config["epochs"]), True)] if "epochs" in config else []),
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
