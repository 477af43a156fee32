"""The bar that `progress=True` shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Counts decided samples of each stage; does nothing when not shown."""

    def __init__(self, progress: Progress | None):
        self._progress = progress
        self._broken = 0
        self._name = ""
        self._task = progress.add_task("", total=0) if progress else None

    def begin(self, name: str, total: int) -> None:
        """A stage with `total` samples to decide."""
        self._name, self._broken = name, 0
        if self._progress and self._task is not None:
            self._progress.reset(self._task, total=total, description=f"{name}: 0 broken")

    def decided(self, broken: bool) -> None:
        """One more sample is decided."""
        self._broken += broken
        if self._progress and self._task is not None:
            self._progress.update(self._task, advance=1, description=f"{self._name}: {self._broken} broken")


@contextmanager
def bar(show: bool) -> Iterator[Bar]:
    """A live bar on the terminal while the context lasts."""
    if not show:
        yield Bar(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        yield Bar(progress)
