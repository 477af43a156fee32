"""What commands print with: tables that fit the terminal, and the line that says where the results are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)  # names and paths may hold brackets


def leading() -> bool:
    """Whether this process is the one that speaks: under torchrun the first is."""
    return os.environ.get("RANK", "0") == "0"


def show(markdown: str) -> None:
    """Print Markdown as text: its tables in columns, or one value a line where the terminal is too narrow for them."""
    narrow = console.is_terminal or "COLUMNS" in os.environ  # a file or pipe has no width
    for is_table, group in groupby(markdown.splitlines(), lambda line: line.startswith("|")):
        lines = list(group)
        text = table_text(lines, console.width if narrow else None) if is_table else "\n".join(lines)
        console.print(text)


def end(folder: Path, *, did: bool, page: bool) -> None:
    """The last line of a run in `folder`: where its page is, made first if need be. `did`: this call finished it."""
    written = folder / "report.html"
    if not page:
        console.print(f"{'finished' if did else 'already finished'}: result files in {folder}")
    elif did or not written.is_file():
        from regfast.report import write_report

        console.print(f"page: {write_report(folder)}")
    else:
        console.print(f"already finished, nothing to do; page: {written}")


def table_text(lines: Sequence[str], width: int | None = None) -> str:
    """The Markdown table `lines` in aligned columns if they fit in `width` characters, else one "name: value" a line.

    No cell is ever cut.
    """
    head, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    columns = list(zip(head, *rows, strict=True))
    sizes = [max(map(len, column)) for column in columns]
    gap = 2 if width is None or sum(sizes) + 2 * (len(sizes) - 1) <= width else 1
    if width is not None and sum(sizes) + gap * (len(sizes) - 1) > width:
        records = ("\n".join(f"{name}: {cell}" for name, cell in zip(head, row, strict=True)) for row in rows)
        return "\n\n".join(records)
    words = [not any(cell[:1].isdigit() for cell in column[1:]) for column in columns]
    aligned = (
        (" " * gap).join(
            cell.ljust(size) if word else cell.rjust(size) for cell, size, word in zip(row, sizes, words, strict=True)
        )
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in aligned)


def metrics_text(found: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """The main figures of metrics.json, in a Markdown table: means over seeds, one `kind` a row."""
    named = {"accuracy": "accuracy", "ece": "ECE", "rms": "RMS", "cosine": "cosine"}
    named["asr_pgd_linf_strong"] = "ASR strong"
    columns = {key: title for key, title in named.items() if all(key in measured for measured in found.values())}
    lines = [f"| {kind} | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
    for name, measured in found.items():
        means = (measured[key]["mean"] for key in columns)
        lines.append(f"| {name} | {' | '.join('–' if mean is None else f'{mean:.3f}' for mean in means)} |")
    return "\n".join(lines)
