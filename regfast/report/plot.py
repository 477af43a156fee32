"""One figure of a run's page alone, for a paper: its size, text, labels and colors as asked."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from matplotlib.colors import is_color_like, to_hex

from regfast.report import figures_of, style
from regfast.report.drawing import Drawing
from regfast.runs.errors import InputError
from regfast.runs.files import make_folder

FORMATS = ("pdf", "svg", "png")


def plot(
    run_dir: str | Path,
    figure: str | int,
    out: str | Path | None = None,
    *,
    format: str = "pdf",  # noqa: A002
    width: float | None = None,
    height: float | None = None,
    font_size: float | None = None,
    labels: Mapping[str, str] | None = None,
    colors: Mapping[str, str] | None = None,
) -> Path:
    """Draw one figure of the page of `run_dir` into a file of its own; returns the file's path.

    Args:
        run_dir: folder of a study, a paper run, measured networks or an evaluation.
        figure: its name on the page (`list_figures`), or the number of the paper's figure that it is.
        out: the file, its ending says the format: `.pdf` (fonts embedded), `.svg` (text as text) or `.png` (220 dpi);
            by default NAME.`format` in the current folder.
        format: pdf, svg or png, where `out` is not given.
        width: in inches; by default the page's, 7.2 for most figures.
        height: in inches; by default the figure keeps its shape.
        font_size: of the text, in points; by default 8. Smaller and larger text keeps its proportion.
        labels: other names for regularizers, networks or attacks, by theirs in the run.
        colors: other colors for them, as matplotlib takes them.

    Raises:
        InputError: the run has no such figure, the figure nothing of a name in `labels` or `colors`, or a size, color
            or ending cannot be used.
        MissingInput, MissingExtra: as `write_report`.
    """
    for name, size in (("width", width), ("height", height)):
        if size is not None and not 0.5 <= size <= 100:
            raise InputError(f"{name}: expected 0.5 to 100 inches, got {size:g}")
    if font_size is not None and not 1 <= font_size <= 100:
        raise InputError(f"font_size: expected 1 to 100 points, got {font_size:g}")
    labels, colors = labels or {}, colors or {}
    for name, color in colors.items():
        if not is_color_like(color):
            raise InputError(f"colors: {color!r} for {name} is no color; expected one such as #0072b2 or teal")
    if out is not None and Path(out).suffix[1:] not in FORMATS:
        raise InputError(f"out: {out} must end in .{', .'.join(FORMATS)}")
    if format not in FORMATS:
        raise InputError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    with style.chosen(labels, {name: to_hex(color) for name, color in colors.items()}) as met:
        drawing = find(figures_of(run_dir), figure)
    for name in (*labels, *colors):
        if name not in met:
            raise InputError(f"the run has no {name!r} to name or color; it has {', '.join(sorted(met))}")
    path = Path(out) if out is not None else Path(f"{drawing.name}.{format}")
    style.fit(drawing.figure, width, height, font_size)
    make_folder(path.parent)
    style.write(drawing.figure, path)
    return path


def list_figures(run_dir: str | Path) -> list[tuple[str, str, str]]:
    """Name, the paper's figures that it is ("1, 4"), and title of every figure of the page of `run_dir`."""
    return [(d.name, ", ".join(map(str, d.paper)), d.title) for d in figures_of(run_dir)]


def find(drawings: list[Drawing], figure: str | int) -> Drawing:
    """The one of `drawings` with that name or paper number; InputError where none, or several, have it."""
    text = str(figure)
    found = [d for d in drawings if d.name == text] or [d for d in drawings if text in map(str, d.paper)]
    names = [d.name for d in found or drawings]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"figure {text} of the paper is several here; expected one of {', '.join(names)}")
    near = get_close_matches(text, names, n=1)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise InputError(f"the run has no figure {text!r}{meant} It has {', '.join(names)}")
