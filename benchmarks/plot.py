"""Draws a result file: `python -m benchmarks.plot benchmarks/results/cpu-loss.json` writes PNG and SVG beside it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks.table import cases, key

COLORS = {"regfast": "#1b6ca8", "eager": "#c0504d", "timm": "#d79b00", "compile": "#6a994e", "liger": "#7b5ea7",
           "quack": "#555555", "cce": "#9c6644"}  # fmt: skip


def draw(path: Path) -> list[Path]:
    """One panel a task: medians with quartiles, on a logarithmic axis, a group of bars per shape."""
    report = json.loads(path.read_text())
    found = cases(report)
    tasks = list(dict.fromkeys(case[0]["task"] for case in found))
    figure, axes = pyplot.subplots(len(tasks), 1, figsize=(10, 2.7 * len(tasks)), squeeze=False, layout="constrained")
    for axis, task in zip(axes[:, 0], tasks, strict=True):
        panel = [case for case in found if case[0]["task"] == task]
        names = list(dict.fromkeys(result["contender"] for case in panel for result in case))
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            drawn = [(x, r) for x, case in enumerate(panel) for r in case if r["contender"] == name]
            median = [r["median_us"] for _, r in drawn]
            spread = [
                [r["median_us"] - r["low_us"] for _, r in drawn],
                [r["high_us"] - r["median_us"] for _, r in drawn],
            ]
            same = sum(other.split(",")[0] == name.split(",")[0] for other in names[:i])
            axis.bar(
                [x + (i - (len(names) - 1) / 2) * width for x, _ in drawn], median, width, label=name, yerr=spread,
                color=COLORS.get(name.split(",")[0], "#999999"), alpha=1 - 0.4 * same, error_kw={"linewidth": 0.8},
            )  # fmt: skip
        labels = [f"{r}×{k}" + (f"\nd={d}" if d else "") for _, r, k, d in (key(case[0]) for case in panel)]
        axis.set_xticks(range(len(panel)), labels)
        axis.set_yscale("log")
        axis.set_ylabel("µs")
        axis.set_title(f"{task}, forward + backward", loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, ncols=len(names), frameon=False, loc="upper left")
        axis.margins(y=0.25)
    machine = report["machine"]
    figure.suptitle(f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}", fontsize=9)
    written = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    for target in written:
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    pyplot.close(figure)
    return written


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, nargs="+")
    for path in parser.parse_args().result:
        print(*draw(path))
