"""What commands print with: a progress bar on a terminal, single lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)


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
