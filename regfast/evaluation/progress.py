"""One progress line for the whole job, printed by the leading worker."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from regfast.evaluation.group import WorkerGroup
from regfast.statistics import wilson_interval

__all__ = ["Progress"]


class Progress:
    """Counts of all workers, and the line that shows them.

    Every worker calls `add` after each chunk; the counters live in the shared store. The leading worker shows one line
    that it renews twice a second on a terminal, and prints plainly every `interval` seconds elsewhere.

    Args:
        group: the workers.
        total: samples of the whole run.
        already: samples finished by earlier runs.
        what: name of the figure shown as robust accuracy, for example "autoattack linf 0.0314".
        show: False keeps silent.
        interval: seconds between plain lines.
    """

    def __init__(
        self, group: WorkerGroup, total: int, already: int, what: str, *, show: bool = True, interval: float = 30.0
    ) -> None:
        self.group, self.total, self.already, self.what = group, total, already, what
        self.console = Console(stderr=True)
        self.show = show and group.leads
        self.interval = 0.5 if self.console.is_terminal else interval
        self.started = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, *, samples: int, usable: int, robust: int, evaluations: int) -> None:
        """Count a finished chunk."""
        self.group.count("evaluations", evaluations)
        self.group.count("usable", usable)
        self.group.count("robust", robust)
        self.group.count("samples", samples)

    def line(self) -> str:
        """The progress so far in one line."""
        now = self.group.count("samples")
        usable, robust = self.group.count("usable"), self.group.count("robust")
        seconds = max(time.monotonic() - self.started, 1e-9)
        parts = [f"{self.already + now}/{self.total} samples"]
        if usable:
            low, high = wilson_interval(robust, usable)[-2:]
            parts.append(f"robust {robust / usable:.1%} [{low:.1%}, {high:.1%}] {self.what}")
        parts.append(f"{self.group.count('evaluations') / seconds:,.0f} evaluations/s")
        if now:
            left = (self.total - self.already - now) * seconds / now
            parts.append(f"{_duration(left)} left")
        return " · ".join(parts)

    def __enter__(self) -> Progress:
        if self.show:
            self._thread = threading.Thread(target=self._renew, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self.console.print(self.line(), highlight=False, soft_wrap=True)

    def _renew(self) -> None:
        if not self.console.is_terminal:
            while not self._stop.wait(self.interval):
                print(self.line(), file=sys.stderr, flush=True)
            return
        with Live(Text(self.line()), console=self.console, transient=True, auto_refresh=False) as live:
            while not self._stop.wait(self.interval):
                live.update(Text(self.line()), refresh=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
