"""Where an attack is: a bar on a terminal, a line every half minute elsewhere, or whoever wants to be told."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

INTERVAL = 30.0  # seconds between lines


class Watcher(Protocol):
    """What is told of a running attack."""

    def begin(self, name: str, total: int) -> None:
        """The stage `name` has `total` samples to decide."""

    def decided(self, broken: bool) -> None:
        """One more sample of the stage is decided."""

    def moved(self, inside: float, work: float) -> None:
        """The engine made a step.

        Args:
            inside: what the samples under attack have had, in samples that stand to the stage's end.
            work: what the stage has done so far, in the same unit: theirs, and what the decided ones took.
        """


class Silent:
    """A `Watcher` that says nothing, and what the others keep count with."""

    def __init__(self) -> None:
        self.name, self.total, self.done, self.broken = "", 0, 0, 0

    def begin(self, name: str, total: int) -> None:
        """A stage begins."""
        self.name, self.total, self.done, self.broken = name, total, 0, 0
        self.tell(0.0, float(total))

    def decided(self, broken: bool) -> None:
        """One more sample is decided."""
        self.done += 1
        self.broken += broken

    def moved(self, inside: float, work: float) -> None:
        """The engine made a step."""
        self.tell(work, self.total - self.done - inside)

    def tell(self, work: float, left: float) -> None:
        """So much of the stage is done, and at most so much is left, in samples that stand to its end."""


class Lines(Silent):
    """One line every `interval` seconds on standard error."""

    def __init__(self, interval: float = INTERVAL) -> None:
        super().__init__()
        self._interval, self._last = interval, time.monotonic()

    def begin(self, name: str, total: int) -> None:
        """A stage begins; its time left counts from here."""
        self._started = time.monotonic()
        super().begin(name, total)

    def tell(self, work: float, left: float) -> None:
        """A line, if the last is long enough ago."""
        now = time.monotonic()
        if now - self._last < self._interval or not self.total:
            return
        self._last = now
        minutes = (now - self._started) * left / max(work, 1e-9) / 60
        said = f"at most {minutes:.1f} minutes left in it" if work else "just begun"
        print(
            f"{self.name}: {work / (work + left):.0%}, {self.broken} of {self.total} broken, {said}",
            file=sys.stderr, flush=True,
        )  # fmt: skip


class Bar(Silent):
    """A bar for the stage at work."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress, self._task = progress, progress.add_task("", total=0)

    def begin(self, name: str, total: int) -> None:
        """A stage begins: its bar starts empty."""
        self._progress.reset(self._task, total=total)
        super().begin(name, total)

    def tell(self, work: float, left: float) -> None:
        """Move the bar."""
        said = f"{self.name}: {self.broken} of {self.total} broken"
        self._progress.update(self._task, completed=work, total=work + left, description=said)


@contextmanager
def watcher(progress: bool | Watcher) -> Iterator[Watcher]:
    """What to tell, for the `progress` of `Attack.run`; a bar is live while the context lasts."""
    if not isinstance(progress, bool):
        if not all(callable(getattr(progress, method, None)) for method in ("begin", "decided", "moved")):
            raise TypeError(f"progress must be True, False or a Watcher, got {progress!r}")
        yield progress
    elif not progress:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
            yield Bar(shown)
