"""`regfast compare`: paired comparison of evaluated models on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regfast.cli._console import console, show
from regfast.cli._options import Seed


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of `regfast evaluate`; all are compared with the first.")],
    out: Annotated[Path | None, typer.Option(help="Write comparison.md and comparison.png into this folder.")] = None,
    seed: Seed = 0,
) -> None:
    """Differences of clean and robust accuracy on the same images, with intervals and McNemar's test."""
    from regfast.evaluation.compare import compare as compare_runs
    from regfast.evaluation.compare import comparison_markdown, plot_comparison
    from regfast.runs.errors import user_input
    from regfast.runs.files import make_folder, write_text

    with user_input():
        compared = compare_runs(runs, seed=seed)
    text = comparison_markdown(compared)
    show(text)
    if out is not None:
        make_folder(out)
        write_text(out / "comparison.md", text)
        plot_comparison(compared, out / "comparison.png")
        console.print(f"table and plot: {out}")
