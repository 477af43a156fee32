"""`regfast show-config`: what is active on this machine, and why."""

from __future__ import annotations

from regfast.cli._console import console


def show_config() -> None:
    """Print versions, backends and which of them serves each operator here."""
    import regfast

    console.print(regfast.show_config())
