"""`regfast report`: figures and page again, from a run's files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regfast.cli._console import console


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished study, such as runs/noisy-digits-full.")],
) -> None:
    """Make the figures, tables and report.html of a study again from its result files."""
    from regfast.report import write_report

    console.print(f"page: {write_report(run)}")
