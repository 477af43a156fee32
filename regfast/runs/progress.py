"""How a long job tells how far it is: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_RENEWED = 0.5  # seconds, on a terminal


class Progress(Protocol):
    """Who is told how far a job is. `total` counts steps; what is finished, and parts of a step, are an `advance`."""

    def start(self, total: float, done: float) -> None:
        """Work begins: `done` of `total` steps are there already."""
        ...

    def advance(self, steps: float = 1) -> None:
        """`steps` more are done."""
        ...

    def say(self, doing: str) -> None:
        """What is being done now."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    def start(self, total: float, done: float) -> None:
        """Nothing."""

    def advance(self, steps: float = 1) -> None:
        """Nothing."""

    def say(self, doing: str) -> None:
        """Nothing."""


class Step:
    """Steps, one after the other, that tell how far they are while they are in work."""

    def __init__(self, progress: Progress):
        self._progress, self._left = progress, 1.0

    def reach(self, share: float) -> None:
        """The step in work is so far done, in [0, 1]; less than was told before is no news."""
        ahead = self._left - (1 - share)
        if ahead > 0:
            self._left -= ahead
            self._progress.advance(ahead)

    def finish(self) -> None:
        """The step in work is done, the next begins."""
        self.reach(1.0)
        self._left = 1.0


class Line:
    """Shows `state()` on standard error while the context lasts.

    On a terminal a bar that is renewed twice a second; elsewhere a line every `interval` seconds.

    Args:
        state: the share that is done, in [0, 1], and the line's text; called in a thread.
        show: False keeps silent.
        terminal: whether standard error is one; found out by default.
        interval: seconds between plain lines.
    """

    def __init__(
        self,
        state: Callable[[], tuple[float, str]],
        *,
        show: bool = True,
        terminal: bool | None = None,
        interval: float = 30.0,
    ) -> None:
        self._state, self._show, self._interval = state, show, interval
        self._console = Console(stderr=True, force_terminal=terminal)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._bar if self._console.is_terminal else self._lines, daemon=True)

    def __enter__(self) -> Line:
        if self._show:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def say(self, text: str) -> None:
        """One line of its own."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _lines(self) -> None:
        while not self._stop.wait(self._interval):
            self.say(self._state()[1])

    def _bar(self) -> None:
        with Live(console=self._console, transient=True, auto_refresh=False) as live:
            while True:
                live.update(self._drawn(), refresh=True)
                if self._stop.wait(_RENEWED):
                    return

    def _drawn(self) -> Table:
        share, text = self._state()
        grid = Table.grid(padding=(0, 1))
        grid.add_column()
        grid.add_column(no_wrap=True, overflow="ellipsis")
        width = min(30, self._console.width // 4)
        grid.add_row(ProgressBar(total=1.0, completed=share, width=width), Text(text))
        return grid


class Steps:
    """A `Progress` that shows itself: what is being done, steps, and the time left if all took the same."""

    def __init__(self, *, show: bool = True, terminal: bool | None = None, interval: float = 30.0) -> None:
        self._total, self._done, self._before, self._doing = 0.0, 0.0, 0.0, ""
        self._started = time.monotonic()
        self._line = Line(self._state, show=show, terminal=terminal, interval=interval)

    def __enter__(self) -> Steps:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)

    def start(self, total: float, done: float) -> None:
        """Work begins: `done` of `total` steps are there already."""
        self._total, self._done, self._before = total, done, done
        self._started = time.monotonic()

    def advance(self, steps: float = 1) -> None:
        """`steps` more are done."""
        self._done += steps

    def say(self, doing: str) -> None:
        """What is being done now."""
        self._doing = doing

    def _state(self) -> tuple[float, str]:
        parts = [self._doing or "preparing"]
        if self._total:
            parts.append(f"step {self._done:.1f} of {self._total:.0f}")
            parts.append(time_left(self._started, self._done - self._before, self._total - self._done))
        return self._done / self._total if self._total else 0.0, " · ".join(parts)


def time_left(started: float, done: float, left: float) -> str:
    """`0:03:10 left`, if what is `left` takes as long as what was `done` since `started` (time.monotonic())."""
    if done <= 0:
        return "time left not known yet"
    minutes, seconds = divmod(round((time.monotonic() - started) * left / done), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left"
