"""`regfast compare`: evaluated models on the same images, or a table across studies and measured networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regfast.cli._console import console, show
from regfast.cli._options import Seed

if TYPE_CHECKING:
    from regfast.report.tables import Table

_FORMATS = ("markdown", "latex", "csv")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of `regfast evaluate`, which are compared with the first; or of study, paper and measure."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the table as .md, .tex and .csv, and for evaluations a plot, in there.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="What is printed: markdown, latex or csv.")] = "markdown",
    seed: Seed = 0,
) -> None:
    """Evaluations: paired differences on the same images. Studies and measured networks: a table across runs.

    Evaluations of the same images are compared with the first, with intervals and McNemar's test. Studies, paper runs
    and measured networks give the paper's table: accuracy, ECE, RMS, cosine and ASR with intervals, a row a model.
    """
    from regfast.report import kind_of, need_extra

    need_extra()
    from regfast.report.tables import to_csv, to_latex, write
    from regfast.runs.errors import InputError
    from regfast.runs.files import write_text

    if form not in _FORMATS:
        raise InputError(f"--format expects one of {', '.join(_FORMATS)}, got {form!r}")
    kinds = {kind_of(run) for run in runs}
    if kinds == {"evaluation"}:
        text, table = _evaluations(runs, seed, out)
    elif "evaluation" in kinds:
        raise InputError("evaluations are compared with evaluations alone, studies and measured networks with such")
    else:
        text, table = _studies(runs)
    if form == "markdown":
        show(text)
    else:
        print({"latex": to_latex, "csv": to_csv}[form](table), end="")
    if out is not None:
        write([table], out)
        write_text(out / f"{table.name}.md", text)
        if form == "markdown":
            console.print(f"written: {out}")


def _evaluations(runs: list[Path], seed: int, out: Path | None) -> tuple[str, Table]:
    from regfast.evaluation.compare import compare as compare_runs
    from regfast.evaluation.compare import comparison_markdown, plot_comparison
    from regfast.report.tables import Cell, Estimate, Table
    from regfast.runs.errors import user_input
    from regfast.runs.files import make_folder

    with user_input():
        found = compare_runs(runs, seed=seed)
    if out is not None:
        make_folder(out)
        plot_comparison(found, out / "comparison.png")
    head = ["run", "figure", "n", found[0].base, "run %", "difference", "only base", "only run", "p"]
    rows: list[list[Cell]] = [
        [c.run, c.figure, str(c.n), 100 * c.first, 100 * c.second,
         Estimate(100 * c.difference, 100 * c.low, 100 * c.high), str(c.only_first), str(c.only_second), c.p_value]
        for c in found
    ]  # fmt: skip
    return comparison_markdown(found), Table("comparison", "Comparison", head, rows)


def _studies(runs: list[Path]) -> tuple[str, Table]:
    from regfast.report.across import across, studies_of
    from regfast.report.tables import to_markdown

    table = across([study for run in runs for study in studies_of(run)])
    return f"{to_markdown(table)}\n{table.note}", table
