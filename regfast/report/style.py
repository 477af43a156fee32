"""How every figure looks: one color per regularizer, and the same bytes for the same data."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure

from regfast.report.drawing import data_address
from regfast.report.svg import compact
from regfast.runs.files import make_folder, replacing, write_text
from regfast.runs.folder import inside
from regfast.training import REGULARIZERS

P = ParamSpec("P")
R = TypeVar("R")

WIDTH = 7.2  # inches: the text width of a page, so that 8 pt in the figure is 8 pt in print

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
# Okabe and Ito's palette, told apart by readers with every common color-vision deficiency.
# The paper's four regularizers have fixed ones (regfast/training/regularizers); any other takes a spare one.
SPARE_COLORS = ("#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")
SPARE_MARKERS = ("v", "P", "X", "*")

# In the page the neutral colors follow the reader's light or dark setting; the colors of data stay.
DARK = {INK: "#e6edf3", MUTED: "#9aa4af", GRID: "#30363d", PAPER: "#161b22", "#24292f": "#f0f3f6",
        "#0072b2": "#459fe6", "#d55e00": "#f0803c", "#009e73": "#2ecf8f",
        "#332288": "#8c82e0", "#117733": "#3fa866", "#882255": "#cc6f9f"}  # fmt: skip

# DejaVu Sans ships with matplotlib, so that every machine draws the same glyphs.
RC: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 9, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "legend.fontsize": 7.5, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.5, "axes.axisbelow": True, "axes.facecolor": PAPER,
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "legend.frameon": False, "lines.linewidth": 1.4,
    "lines.markersize": 3.5, "svg.fonttype": "path", "svg.hashsalt": "regfast",
    "path.simplify": True, "path.simplify_threshold": 0.1,
    "figure.constrained_layout.use": True,
}  # fmt: skip

_VIRIDIS = matplotlib.colormaps["viridis"]
# The last tenth of viridis, a light yellow, can't be seen on white.
CONFIDENCE: LinearSegmentedColormap | ListedColormap = LinearSegmentedColormap.from_list(
    "confidence", [_VIRIDIS(0.9 * k / 255) for k in range(256)]
)


def color(regularizer: str, regularizers: list[str] | None = None) -> str:
    """The color of ``regularizer``: its own, or by position in ``regularizers`` among those that have none."""
    return _known(regularizer, "color") or _spare(regularizer, regularizers, "color", SPARE_COLORS)


def marker(regularizer: str, regularizers: list[str] | None = None) -> str:
    """The marker of ``regularizer``, chosen as its color is, so that color is never the only difference."""
    return _known(regularizer, "marker") or _spare(regularizer, regularizers, "marker", SPARE_MARKERS)


def label(regularizer: str) -> str:
    """The name of ``regularizer`` for readers; a name that the user gave is shown as it is."""
    return _known(regularizer, "label") or regularizer


def in_sentence(regularizer: str) -> str:
    """`label` as it stands inside a sentence: "label smoothing", but "Mixup"."""
    known = _known(regularizer, "label")
    return known if known and _known(regularizer, "proper") else (known or "").lower() or regularizer


def _known(regularizer: str, attribute: str) -> Any:
    """What the registered regularizer says of itself; None where it says nothing, or is the user's own."""
    registered = regularizer in REGULARIZERS.names()
    return getattr(REGULARIZERS.find(regularizer), attribute) if registered else None


def _spare(name: str, names: list[str] | None, attribute: str, choices: tuple[str, ...]) -> str:
    others = [n for n in names or [name] if not _known(n, attribute)]
    return choices[others.index(name) % len(choices)] if name in others else choices[0]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run ``draw`` under this module's settings, leaving matplotlib's global ones as they were."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapped


@styled
def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.png`` (220 dpi) and ``name.svg`` into ``folder``; the same figure gives the same bytes."""
    make_folder(folder)
    _settle(figure)
    png, svg = inside(folder, f"{name}.png"), inside(folder, f"{name}.svg")
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    write_text(svg, compact(drawn.getvalue()))
    with replacing(png) as file:
        figure.savefig(file, format="png", dpi=220, metadata={"Software": None})
    return png, svg


def _settle(figure: Figure) -> None:
    # The layout solver's last digits depend on where its variables lie in memory; rounded, they are always the same.
    figure.draw_without_rendering()
    if any(axes.get_aspect() != "auto" for axes in figure.axes):
        figure.draw_without_rendering()  # a panel of fixed aspect moves its neighbors: see where it ended up
    with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)  # not "none": with a placeholder, saving draws everything once more
    for axes in figure.axes:
        x, y, width, height = (round(float(v), 5) for v in axes.get_position(original=True).bounds)
        axes.set_position((x, y, width, height), which="original")


def themed_svg(path: Path) -> Markup:
    """A ``data:`` address of the SVG at ``path`` whose neutral colors follow the reader's light or dark setting."""
    text = path.read_text(encoding="utf-8")
    light, dark = [], []
    for number, (bright, dim) in enumerate(DARK.items()):
        text = text.replace(f": {bright}", f": var(--c{number})")
        light.append(f"--c{number}:{bright}")
        dark.append(f"--c{number}:{dim}")
    rule = f"svg{{{';'.join(light)}}}@media(prefers-color-scheme:dark){{svg{{{';'.join(dark)}}}}}"
    text = re.sub(r'(<style type="text/css">)', rf"\1{rule}", text, count=1)
    return data_address(text.replace('"', "'"), "image/svg+xml")
