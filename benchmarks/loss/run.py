"""Measures the loss cases and writes one JSON file."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks import timing
from benchmarks.loss import cases
from benchmarks.table import Progress

RESULTS = Path(__file__).parents[1] / "results"


def run(*, quick: bool, compiled: bool, only: str = "", out: Path | None = None) -> Path:
    """Measure, and return the path of the JSON file.

    Args:
        quick: a short look: less time per case, nothing compiled.
        compiled: with torch.compile of every contender.
        only: cases whose name contains this.
        out: where to write; benchmarks/results/cpu-loss.json by default.
    """
    out = out or RESULTS / "cpu-loss.json"
    results = []
    found = [case for case in cases.loss_cases() + cases.stats_cases() if only in case.name]
    report = {"machine": timing.machine(), "quick": quick, "results": results}
    with Progress(len(found)) as progress:
        for case in found:
            progress.next(case.name)
            cases.check(case)
            functions = dict(case.contenders)
            if compiled and not quick:
                torch.compiler.reset()
                functions.update({name: make() for name, make in case.compiled.items()})
            times = timing.interleaved(functions, 0.2 if quick else 2.0)
            results += [
                {
                    "task": case.task,
                    "rows": case.rows,
                    "classes": case.classes,
                    "width": case.width,
                    "bytes": case.bytes,
                    "contender": name,
                    "median_us": spread.median,
                    "low_us": spread.low,
                    "high_us": spread.high,
                    "samples": spread.samples,
                    "quiet": spread.quiet,
                }
                for name, spread in times.items()
            ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    return out
