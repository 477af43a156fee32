"""What a finished run says: figures with intervals, as JSON, Markdown and a plot."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from regfast.attacks.checks import masked, unsettled
from regfast.evaluation.samples import OK
from regfast.runs.files import write_json, write_text
from regfast.runs.text import markdown
from regfast.statistics import wilson_interval

__all__ = ["eps_text", "results_table", "share", "summarize", "write_summary"]

Row = dict[str, Any]


def summarize(
    rows: pa.Table, facts: Mapping[str, Any], *, told: Sequence[str] = (), gradient_free: Collection[str] = ()
) -> dict[str, Any]:
    """Clean and robust accuracy of every attack and eps, with 95 % Wilson intervals.

    Args:
        rows: the result store's rows (`regfast.evaluation.store.SCHEMA`), at most one per sample, attack, norm and eps.
        facts: what the rows do not know: configuration, machine, seconds. Copied into the summary as it is.
        told: warnings (`AttackWarning`) while the attacks ran.
        gradient_free: names of the stages that need no gradient and come after some that do.

    Returns:
        A JSON-serializable dict: `samples`, `unusable` (reason → count), `clean`, `attacks` (a list of rows),
        `worst_case` (per norm and eps, over all attacks of the run), `warnings` and the given facts. Shares are of the
        usable samples; `attack_success_rate` of the correctly classified.
    """
    frame = {name: np.asarray(rows[name].to_pylist(), dtype=object) for name in ("attack", "norm", "status", "stage")}
    sample, eps = rows["sample"].to_numpy(), rows["eps"].to_numpy()
    usable = frame["status"] == OK
    names = ("correct", "success", "robust", "carried", "late")
    flags = {name: rows[name].to_numpy(zero_copy_only=False) for name in names}
    spent = {name: rows[name].to_numpy() for name in ("gradients", "queries")}

    first = np.unique(sample, return_index=True)[1]
    reasons = Counter(_kind(str(status)) for status in frame["status"][first] if status != OK)
    known = first[usable[first]]
    summary: dict[str, Any] = {
        "samples": len(first),
        "usable": len(known),
        "unusable": dict(sorted(reasons.items())),
        "clean": share(int(flags["correct"][known].sum()), len(known)),
        "attacks": [],
        "worst_case": [],
    }
    by_norm: dict[tuple[str, float], dict[int, bool]] = {}
    for attack, norm, level in sorted({(a, n, e) for a, n, e in zip(frame["attack"], frame["norm"], eps, strict=True)}):
        here = (frame["attack"] == attack) & (frame["norm"] == norm) & (eps == level)
        counted = here & usable
        robust, correct = int(flags["robust"][counted].sum()), int(flags["correct"][counted].sum())
        success = int(flags["success"][counted].sum())
        fell = counted & flags["success"] & ~flags["carried"]
        summary["attacks"].append(
            {
                "attack": attack,
                "norm": norm,
                "eps": float(level),
                "robust_accuracy": share(robust, int(counted.sum())),
                "attack_success_rate": share(success, correct),
                "carried": int(flags["carried"][counted].sum()),
                "stages": dict(Counter(frame["stage"][fell])),
                "late": int(flags["late"][fell].sum()),
                "gradients": int(spent["gradients"][here].sum()),
                "queries": int(spent["queries"][here].sum()),
            }
        )
        still = by_norm.setdefault((norm, float(level)), {})
        for index, holds in zip(sample[counted], flags["robust"][counted], strict=True):
            still[int(index)] = still.get(int(index), True) and bool(holds)
    for (norm, level), still in sorted(by_norm.items()):
        summary["worst_case"].append(
            {"norm": norm, "eps": level, "robust_accuracy": share(sum(still.values()), len(still))}
        )
    summary |= facts
    return {
        **summary,
        "warnings": [*_warnings(summary), *map(_sentence, told), *_doubts(summary["attacks"], gradient_free)],
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.md, and last summary.json, into `folder`."""
    write_text(folder / "summary.md", _markdown(summary))
    write_json(folder / "summary.json", summary)  # that it is there says that the run is finished


def _kind(status: str) -> str:
    """Why a sample is unusable, without what is its own: "label … is outside [0, 10)" for all such labels."""
    kind = status.split(":")[0]
    return re.sub(r"^(label |pixels in |shape )(\(.*?\)|\[.*?\]|-?\d+)", r"\1…", kind)


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before any figure."""
    found = []
    lost = summary["samples"] - summary["usable"]
    if lost:
        reasons = markdown("; ".join(f"{count} × {reason}" for reason, count in summary["unusable"].items()))
        found.append(f"{lost} of {summary['samples']} samples are left out and part of no figure: {reasons}.")
    classes, clean = summary.get("classes", 0), summary["clean"]
    if clean["of"] >= 20 and classes and clean["low"] <= 1 / classes:
        found.append(
            f"Clean accuracy {100 * clean['value']:.2f} % is no better than guessing among {classes} classes: are "
            "labels numbered as the model's classes, and images prepared as it was trained?"
        )
    return found


def _sentence(warning: str) -> str:
    return markdown(f"{warning[:1].upper()}{warning[1:].removesuffix('.')}.")


def _doubts(attacks: Sequence[Row], gradient_free: Collection[str]) -> list[str]:
    """Signs that a model is less robust than its figures say."""
    found = []
    for row in attacks:
        fell = [masked(name, count, row["robust_accuracy"]["of"]) for name, count in row["stages"].items()
                if name in gradient_free]  # fmt: skip
        where = f"{markdown(row['attack'])}, {row['norm']}, eps {eps_text(row['eps'])}"
        found += [f"{where}: {text}." for text in (*fell, unsettled(row["late"])) if text]
    return found


def share(part: int, whole: int) -> dict[str, Any]:
    """A share with its Wilson interval; null where nothing was counted, because JSON has no NaN."""
    if whole == 0:
        return {"value": None, "low": None, "high": None, "count": 0, "of": 0}
    estimate, low, high = wilson_interval(part, whole)
    return {"value": float(estimate), "low": float(low), "high": float(high), "count": part, "of": whole}


def _percent(share: Mapping[str, Any]) -> tuple[str, str]:
    """A share and its interval in percent."""
    if share["value"] is None:
        return "–", "–"
    return f"{100 * share['value']:.2f}", f"{100 * share['low']:.2f}–{100 * share['high']:.2f}"


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as in `summarize(...)["attacks"]` as a Markdown table in percent, evaluations per usable image."""
    lines = [
        "| attack | norm | eps | robust % | 95 % | ASR % | 95 % | grads | passes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        images = max(row["robust_accuracy"]["of"], 1)
        cells = (
            markdown(row["attack"]),
            row["norm"],
            "any" if row["eps"] is None else eps_text(row["eps"]),
            *_percent(row["robust_accuracy"]),
            *_percent(row["attack_success_rate"]),
            f"{row['gradients'] / images:.1f}",
            f"{row['queries'] / images:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _markdown(summary: Mapping[str, Any]) -> str:
    clean, interval = _percent(summary["clean"])
    targeted = []
    if "target" in summary:
        targeted = [f"Targeted ({summary['target']}): an attack succeeds where it reaches its class.", ""]
    lines = [
        markdown(f"# {summary.get('model', 'model')} on {summary.get('dataset', 'data')}"),
        "",
        *(f"**Warning:** {warning}\n" for warning in summary["warnings"]),
        f"{summary['usable']} of {summary['samples']} samples; clean accuracy {clean} % [{interval}]. "
        "Intervals are 95 % Wilson intervals over samples.",
        "",
        *targeted,
        results_table(summary["attacks"]),
    ]
    if len({row["attack"] for row in summary["attacks"]}) > 1:
        lines += [
            "",
            "Worst case over the attacks of this run:",
            "",
            "| norm | eps | robust % | 95 % |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['norm']} | {eps_text(row['eps'])} | {' | '.join(_percent(row['robust_accuracy']))} |"
            for row in summary["worst_case"]
        ]
    lines += [
        "",
        "robust: usable samples still classified correctly after the attack; ASR (attack success rate): share of the "
        "correctly classified that it flips. grads, passes: input gradients and forward passes per usable sample. "
        "A sample that falls at one eps counts as broken at every larger one and is not attacked again.",
    ]
    options = dict.fromkeys(re.sub(r"\beps=[^,)]*", "eps", text) for text in summary.get("attack_options", []))
    lines += ["", *(f"- `{text}`" for text in options)]
    lines += ["", f"Worker time {summary.get('worker_seconds', 0):.1f} s, {summary.get('hardware', '')}."]
    if "command" in summary:
        lines += ["", f"Made by `{' '.join(summary['command'].replace('`', ' ').split())}`."]
    return "\n".join(lines) + "\n"


def eps_text(value: float) -> str:
    """Eps as its user wrote it: a short decimal, or in 255ths where it is a plain fraction of them."""
    of255, short = value * 255, f"{value:.4g}"
    return f"{of255:.4g}/255" if float(short) != value and abs(of255 * 8 - round(of255 * 8)) < 1e-6 else short
