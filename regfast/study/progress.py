"""How a study tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who is told how far a study is. `total` counts steps; every finished one is an `advance`."""

    def start(self, total: int, done: int) -> None:
        """Work begins: `done` of `total` steps are there already."""
        ...

    def advance(self, steps: int = 1) -> None:
        """`steps` more are done."""
        ...

    def say(self, doing: str) -> None:
        """What is being done now."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    def start(self, total: int, done: int) -> None:
        """Nothing."""

    def advance(self, steps: int = 1) -> None:
        """Nothing."""

    def say(self, doing: str) -> None:
        """Nothing."""
