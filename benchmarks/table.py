"""Prints a result file as one table."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import TaskID
from rich.table import Table


class Progress:
    """Which case is being measured, on a terminal."""

    def __init__(self, total: int):
        self._bar = RichProgress(console=Console(stderr=True), transient=True)
        self._task: TaskID = self._bar.add_task("", total=total)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def next(self, name: str) -> None:
        self._bar.update(self._task, advance=1, description=name)


def key(result: dict[str, Any]) -> tuple[str, int, int, int]:
    """What the contenders of one case have in common."""
    return result["task"], result["rows"], result["classes"], result["width"] or 0


def cases(report: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The results of each case, ours first."""
    return [list(group) for _, group in groupby(report["results"], key)]


def show(report: dict[str, Any]) -> None:
    """Median, quartiles, how often ours fits into it, and the share of the copy bandwidth, per contender.

    A star: other processes disturbed the samples."""
    machine = report["machine"]
    bandwidth = machine["copy_bandwidth"]
    table = Table(
        title=f"Loss, forward + backward: {machine['device']}, {machine['threads']} threads, torch {machine['torch']}, "
        f"copy {bandwidth / 1e9:.1f} GB/s" + (" (quick look)" if report["quick"] else ""),
        title_justify="left",
    )
    for heading in ("case", "contender"):
        table.add_column(heading)
    for heading in ("median µs", "quartiles µs", "× regfast", "of copy bandwidth"):
        table.add_column(heading, justify="right")
    for case in cases(report):
        ours = case[0]["median_us"]
        for i, result in enumerate(case):
            task, rows, classes, width = key(result)
            share = result["bytes"] / (1e-6 * result["median_us"]) / bandwidth
            table.add_row(
                f"{task} {rows}×{classes}" + (f", d={width}" if width else "") if i == 0 else "",
                result["contender"],
                f"{result['median_us']:,.0f}" + ("" if result["quiet"] else " *"),
                f"{result['low_us']:,.0f} - {result['high_us']:,.0f}",
                f"{result['median_us'] / ours:.1f}",
                f"{100 * share:.0f} %",
                end_section=i == len(case) - 1,
            )
    if not all(result["quiet"] for result in report["results"]):
        table.caption = "* disturbed by other processes: not to be relied upon"
    Console(width=None if Console().is_terminal else 120).print(table)
