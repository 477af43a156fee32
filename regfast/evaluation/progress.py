"""One progress line for the whole evaluation, shown by the leading worker."""

from __future__ import annotations

import time
from types import TracebackType

from regfast.runs.group import WorkerGroup
from regfast.runs.progress import Line, time_left
from regfast.statistics import wilson_interval

__all__ = ["Progress"]


class Progress:
    """Counts of all workers, and the line that shows them.

    Every worker calls `add` after each chunk, and `within` inside it; the counters live in the shared store.

    Args:
        group: the workers.
        total: samples of the whole run.
        already: samples finished by earlier runs; `usable` and `robust` of them.
        what: name of the figure shown as robust accuracy, for example "autoattack linf 0.0314".
        show: False keeps silent.
        interval: seconds between plain lines, where standard error is no terminal.
    """

    def __init__(
        self, group: WorkerGroup, total: int, already: int, what: str, *, usable: int = 0, robust: int = 0,
        show: bool = True, interval: float = 30.0,
    ) -> None:  # fmt: skip
        self.group, self.total, self.already, self.what = group, total, already, what
        self._usable, self._robust = usable, robust
        self.show = show and group.leads
        self.started = time.monotonic()
        self._line = Line(lambda: (self._share(), self.line()), show=self.show, interval=interval)
        self._within = 0  # hundredths of samples of the chunk in work that are counted

    def within(self, samples: float) -> None:
        """So many samples of the chunk in work are done, by and large."""
        ahead = int(samples * 100) - self._within
        if ahead > 0:
            self._within += ahead
            self.group.count("hundredths", ahead)

    def add(self, *, samples: int, usable: int, robust: int, evaluations: int) -> None:
        """Count a finished chunk."""
        self.group.count("hundredths", samples * 100 - self._within)
        self._within = 0
        self.group.count("evaluations", evaluations)
        self.group.count("usable", usable)
        self.group.count("robust", robust)
        self.group.count("samples", samples)

    def line(self) -> str:
        """The progress so far in one line."""
        finished, done = self.group.count("samples"), self.group.count("hundredths") / 100
        usable, robust = self._usable + self.group.count("usable"), self._robust + self.group.count("robust")
        seconds = max(time.monotonic() - self.started, 1e-9)
        parts = [f"{self.already + finished}/{self.total} samples"]
        if round(done - finished, 1) > 0:
            parts.append(f"{done - finished:.1f} in work")
        if usable:
            low, high = wilson_interval(robust, usable)[-2:]
            parts.append(f"robust {robust / usable:.1%} [{low:.1%}, {high:.1%}] {self.what}")
            parts.append(f"{self.group.count('evaluations') / seconds:,.0f} evaluations/s")
        parts.append(time_left(self.started, done, self.total - self.already - done))
        return " · ".join(parts)

    def _share(self) -> float:
        return (self.already + self.group.count("hundredths") / 100) / max(self.total, 1)

    def __enter__(self) -> Progress:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)
        if self.show:
            self._line.say(self.line())
