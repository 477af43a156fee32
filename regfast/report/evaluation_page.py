"""What the page of an evaluation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regfast.evaluation.classes import read_classes
from regfast.evaluation.examples import read_examples
from regfast.evaluation.summary import eps_text
from regfast.report.drawing import sentence
from regfast.report.evaluation_figures import drawings
from regfast.report.page import Card, CardRow, Page, Section
from regfast.report.results import NORMS
from regfast.report.tables import Cell, Estimate, Table
from regfast.runs.files import read_json


def evaluation_page(folder: Path) -> Page:
    """The page of the evaluation in `folder`, from its files alone."""
    summary = read_json(folder / "summary.json")
    run = read_json(folder / "run.json")
    figures = drawings(summary, read_classes(folder), read_examples(folder))
    warnings = "\n".join(summary.get("warnings", []))
    return Page(
        title=f"Robustness of {summary['model']} on {summary['dataset']}",
        notice=warnings,
        lead=f"{figures[0].found} Intervals are 95 %.",
        facts=[
            ("Samples", f"{summary['usable']} of {summary['samples']}"),
            *([("Target", str(summary["target"]))] if "target" in summary else []),
        ],
        cards=_cards(summary),
        glance=figures[0],
        verdicts=[],
        verdict_note="",
        sections=[
            Section("results", "Results", tables=[_results(summary), *_unusable(summary)]),
            Section("images", "Images and classes", drawings=figures[1:]),
        ],
        settings=[(name, str(value), False) for name, value in _settings(summary, run)],
        settings_note="Everything that decides a row of this run; the same command and data give the same rows.",
        environment=[
            ("command", summary.get("command", "–")),
            ("date", run.get("created", "–")),
            ("hardware", summary["hardware"]),
            ("worker time", f"{summary['worker_seconds']:.1f} s"),
            *summary["versions"].items(),
        ],
        sources="Generated from summary.json, classes.csv and examples.safetensors in the run’s folder alone; regfast "
        "report makes it again.",
        formulas=(),
    )


def _cards(summary: dict[str, Any]) -> list[Card]:
    """Clean accuracy, and per norm what survived every attack at each radius."""
    found = [Card("Clean accuracy", _share(summary["clean"]), note="Share of the images that the model gets right.")]
    for norm in dict.fromkeys(row["norm"] for row in summary["worst_case"]):
        rows = [row for row in summary["worst_case"] if row["norm"] == norm]
        attacks = sentence(list(dict.fromkeys(row["attack"] for row in summary["attacks"] if row["norm"] == norm)))
        name = NORMS.get(norm, norm)
        found.append(
            Card(
                f"Robust in {name}",
                f"At ε = {eps_text(rows[-1]['eps'])}, {_share(rows[-1]['robust_accuracy'])} stay right.",
                [CardRow(f"Robust at {eps_text(r['eps'])} ({name})", _share(r["robust_accuracy"])) for r in rows],
                f"Under all of {attacks}: an image counts as robust where every one of them fails.",
            )
        )
    return found


def _share(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "–"
    return f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def _results(summary: dict[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    images = max(summary["usable"], 1)
    for row in summary["attacks"]:
        broken = ", ".join(f"{stage} {count}" for stage, count in row.get("stages", {}).items())
        rows.append(
            [
                row["attack"],
                row["norm"],
                eps_text(row["eps"]),
                _estimate(row["robust_accuracy"]),
                _estimate(row["attack_success_rate"]),
                row["gradients"] / images,
                row["queries"] / images,
                broken or "–",
            ]
        )
    head = ["attack", "norm", "ε", "robust %", "ASR %", "gradients", "forwards", "broken by"]
    note = (
        "Robust: share of the usable samples still right after the attack. ASR: share of the right ones that it flips. "
        "95 % Wilson intervals over samples. Gradients and forward passes per usable sample. A sample that fell at one "
        "ε counts as broken at every larger one and is not attacked again."
    )
    return Table("results", "Every attack", head, rows, note)


def _estimate(share: dict[str, Any]) -> Estimate:
    nan = float("nan")
    return Estimate(*(nan if share[key] is None else 100 * share[key] for key in ("value", "low", "high")))


def _unusable(summary: dict[str, Any]) -> list[Table]:
    if not summary["unusable"]:
        return []
    rows: list[list[Cell]] = [[reason, str(count)] for reason, count in summary["unusable"].items()]
    note = "These samples are part of no figure; the column status of the rows says of each what is wrong."
    return [Table("unusable", "Samples that could not be used", ["reason", "samples"], rows, note)]


def _settings(summary: dict[str, Any], run: dict[str, Any]) -> list[tuple[str, Any]]:
    identity = run["identity"]
    data = identity["dataset"]
    rows = [("Model", summary["model"]), ("Data", summary["dataset"])]
    rows += [(name.capitalize(), data[name]) for name in ("preprocess", "labels") if name in data]
    rows += [(f"Attack {place}", text) for place, text in enumerate(summary["attack_options"], 1)]
    rows += [(name.capitalize(), identity[name]) for name in ("target", "seed", "precision") if name in identity]
    limit = run.get("limit")
    return [*rows, ("Limit", "all samples" if limit is None else f"{limit} samples, drawn by the seed")]
