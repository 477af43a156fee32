"""What commands print with: tables that fit the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)  # names and paths may hold brackets


def show(markdown: str) -> None:
    """Print Markdown as text: its tables in columns, or one value a line where the terminal is too narrow for them."""
    narrow = console.is_terminal or "COLUMNS" in os.environ  # a file or pipe has no width
    for is_table, group in groupby(markdown.splitlines(), lambda line: line.startswith("|")):
        lines = list(group)
        text = table_text(lines, console.width if narrow else None) if is_table else "\n".join(lines)
        console.print(text)


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
