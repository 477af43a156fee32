"""What commands print with: tables that fit the terminal, a progress bar on one, single lines elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import groupby
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)


def show(markdown: str) -> None:
    """Print Markdown as text: its tables in columns, or one value a line where the terminal is too narrow for them."""
    narrow = console.is_terminal or "COLUMNS" in os.environ  # a file or pipe has no width
    for is_table, group in groupby(markdown.splitlines(), lambda line: line.startswith("|")):
        lines = list(group)
        text = table_text(lines, console.width if narrow else None) if is_table else "\n".join(lines)
        console.print(text, markup=False)


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


class Bar:
    """Progress with the time left, on a terminal only; a context manager. See `regfast.study.Progress`."""

    def __init__(self, *, show: bool | None = None):
        self._shown = sys.stderr.isatty() if show is None else show
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._progress = Progress(
            *columns, console=Console(stderr=True, force_terminal=show), disable=not self._shown, transient=True
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, total: int, done: int) -> None:
        """Work begins: `done` of `total` steps are there already."""
        self._task = self._progress.add_task("", total=total, completed=done)

    def advance(self, steps: int = 1) -> None:
        """`steps` more are done."""
        if self._task is not None:
            self._progress.advance(self._task, steps)

    def say(self, doing: str) -> None:
        """What is being done now."""
        if self._task is not None:
            self._progress.update(self._task, description=doing)
