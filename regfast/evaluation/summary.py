"""What a finished run says: figures with intervals, as JSON, Markdown and a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from regfast.evaluation.samples import OK
from regfast.runs.files import replacing, write_json, write_text
from regfast.statistics import wilson_interval

__all__ = ["eps_text", "results_table", "share", "summarise", "write_summary"]

Row = dict[str, Any]


def summarise(rows: pa.Table, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Clean and robust accuracy of every attack and eps, with 95 % Wilson intervals.

    Args:
        rows: the result store's rows (`regfast.evaluation.store.SCHEMA`), at most one per sample, attack, norm and eps.
        facts: what the rows do not know: configuration, machine, seconds. Copied into the summary as it is.

    Returns:
        A JSON-serialisable dict: `samples`, `unusable` (reason → count), `clean`, `attacks` (a list of rows),
        `worst_case` (per norm and eps, over all attacks of the run) and the given facts. Shares are of the usable
        samples; `attack_success_rate` of the correctly classified.
    """
    frame = {name: np.asarray(rows[name].to_pylist(), dtype=object) for name in ("attack", "norm", "status")}
    sample, eps = rows["sample"].to_numpy(), rows["eps"].to_numpy()
    usable = frame["status"] == OK
    flags = {name: rows[name].to_numpy(zero_copy_only=False) for name in ("correct", "success", "robust", "carried")}
    spent = {name: rows[name].to_numpy() for name in ("gradients", "queries")}

    first = np.unique(sample, return_index=True)[1]
    reasons = Counter(str(status).split(":")[0] for status in frame["status"][first] if status != OK)
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
        summary["attacks"].append(
            {
                "attack": attack,
                "norm": norm,
                "eps": float(level),
                "robust_accuracy": share(robust, int(counted.sum())),
                "attack_success_rate": share(success, correct),
                "carried": int(flags["carried"][counted].sum()),
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
    return {**summary, **facts}


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.md, where matplotlib is installed curves.png, and last summary.json into `folder`."""
    write_text(folder / "summary.md", _markdown(summary))
    _plot(folder / "curves.png", summary)
    write_json(folder / "summary.json", summary)  # that it is there says that the run is finished


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
    """Rows as in `summarise(...)["attacks"]` as a Markdown table in percent, evaluations per usable image."""
    lines = [
        "| attack | norm | eps | robust % | 95 % | ASR % | 95 % | grads | passes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        images = max(row["robust_accuracy"]["of"], 1)
        cells = (
            row["attack"],
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
    lines = [
        f"# {summary.get('model', 'model')} on {summary.get('dataset', 'data')}",
        "",
        f"{summary['usable']} of {summary['samples']} samples; clean accuracy {clean} % [{interval}]. "
        "Intervals are 95 % Wilson intervals over samples.",
        "",
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
    if summary["unusable"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["unusable"].items())
        lines += ["", f"Left out, and not part of any figure: {reasons}."]
    lines += ["", f"Worker time {summary.get('worker_seconds', 0):.1f} s, {summary.get('hardware', '')}."]
    if "command" in summary:
        lines += ["", f"Made by `{summary['command']}`."]
    return "\n".join(lines) + "\n"


def eps_text(value: float) -> str:
    """Eps as its user wrote it: a short decimal, or in 255ths where it is a plain fraction of them."""
    of255, short = value * 255, f"{value:.4g}"
    return f"{of255:.4g}/255" if float(short) != value and abs(of255 * 8 - round(of255 * 8)) < 1e-6 else short


def _plot(path: Path, summary: Mapping[str, Any]) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError:
        return
    norms = sorted({row["norm"] for row in summary["attacks"]})
    if not norms or summary["clean"]["value"] is None:
        return
    figure, axes = plt.subplots(1, len(norms), figsize=(5.2 * len(norms), 3.8), squeeze=False, layout="constrained")
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    attacks = sorted({row["attack"] for row in summary["attacks"]})
    for axis, norm in zip(axes[0], norms, strict=True):
        for attack, marker in zip(attacks, "os^Dv<>" * len(attacks), strict=False):
            rows = [r for r in summary["attacks"] if (r["attack"], r["norm"]) == (attack, norm)]
            shares = [summary["clean"], *(row["robust_accuracy"] for row in rows)]
            eps = [0.0, *(row["eps"] for row in rows)]
            colour = colours[attacks.index(attack) % len(colours)]
            axis.plot(eps, [s["value"] for s in shares], marker=marker, color=colour, label=attack)
            axis.fill_between(eps, [s["low"] for s in shares], [s["high"] for s in shares], color=colour, alpha=0.15)
        axis.set(xlabel=f"eps ({norm})", ylabel="robust accuracy", ylim=(0, 1), xlim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format="png", metadata={"Software": None})
    plt.close(figure)
