"""`regfast plot`: one figure of a run's page as a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from regfast.cli._console import console, show

_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # pt as TeX has them
_LOOKS = "How it looks"


def plot(
    run: Annotated[Path, typer.Argument(help="Folder of a study, paper run, measured networks or evaluation.")],
    figure: Annotated[
        str | None, typer.Option(help="Name of the figure, or the number of the paper's figure that it is.")
    ] = None,
    names: Annotated[bool, typer.Option("--list", help="List the figures of the run.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file; by default NAME.FORMAT in the current folder.")] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help="pdf (fonts embedded), svg (text as text) or png; by default pdf.")
    ] = None,
    width: Annotated[
        str | None,
        typer.Option(help="5.5in, 14cm, 140mm, 400pt, or column (3.5in) or page (7.2in).", rich_help_panel=_LOOKS),
    ] = None,
    height: Annotated[
        str | None, typer.Option(help="Likewise; by default the figure keeps its shape.", rich_help_panel=_LOOKS)
    ] = None,
    font_size: Annotated[float | None, typer.Option(help="Points; by default 8.", rich_help_panel=_LOOKS)] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help='NAME=TEXT, such as hard="No regularizer". Can be repeated.', rich_help_panel=_LOOKS),
    ] = None,
    color: Annotated[
        list[str] | None,
        typer.Option(help="NAME=COLOR, such as mixup=#0072b2. Can be repeated.", rich_help_panel=_LOOKS),
    ] = None,
) -> None:
    """Draw one figure of the page alone, for a paper: PDF, SVG or PNG, with sizes, labels and colors of your own."""
    from regfast.report import need_extra

    need_extra()
    from regfast.report.plot import list_figures
    from regfast.report.plot import plot as draw
    from regfast.runs.errors import InputError
    from regfast.runs.text import markdown

    if names or figure is None:
        rows = [" | ".join(map(markdown, row)) for row in list_figures(run)]
        show("\n".join(["| name | paper's figure | title |", "|---|---|---|", *(f"| {row} |" for row in rows)]))
        if not names:
            raise InputError("--figure expects one of these names or numbers")
        return
    if out is not None and kind is not None and out.suffix != f".{kind}":
        raise InputError(f"--format {kind} and --out {out} differ: one of them is enough")
    written = draw(
        run,
        figure,
        out,
        format=kind or "pdf",
        width=_inches(width, "--width"),
        height=_inches(height, "--height"),
        font_size=font_size,
        labels=_pairs(label, "--label"),
        colors=_pairs(color, "--color"),
    )
    console.print(f"figure: {written}")


def _inches(text: str | None, option: str) -> float | None:
    from regfast.report import style
    from regfast.runs.errors import InputError

    named = {"column": style.COLUMN, "page": style.WIDTH}
    if text is None or text in named:
        return None if text is None else named[text]
    number, unit = text.rstrip("abcdefghijklmnopqrstuvwxyz"), text.lstrip("0123456789.")
    try:
        return float(number) * _INCHES[unit]
    except (ValueError, KeyError):
        raise InputError(f"{option} expects a length such as 5.5in, 14cm or column, got {text!r}") from None


def _pairs(given: list[str] | None, option: str) -> dict[str, str]:
    from regfast.runs.errors import InputError

    pairs = dict(text.partition("=")[::2] for text in given or [])
    for name, value in pairs.items():
        if not name or not value:
            raise InputError(f"{option} expects NAME=VALUE, got {name or '=' + value!r}")
    return pairs
