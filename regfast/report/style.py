"""How every figure looks: one color per regularizer, and the same bytes for the same data."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.text import Text

from regfast.report.drawing import data_address
from regfast.report.svg import compact
from regfast.runs.files import make_folder, replacing, write_text
from regfast.runs.folder import inside
from regfast.training import REGULARIZERS

P = ParamSpec("P")
R = TypeVar("R")

WIDTH = 7.2  # inches: the text width of a page, so that 8 pt in the figure is 8 pt in print
COLUMN = 3.5  # inches: one column of two, and a phone
FONT_SIZE = 8.0  # points

INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#d8dee4", "#ffffff"
# Okabe and Ito's palette, told apart by readers with every common color-vision deficiency.
# Regularizers of ours have fixed ones (regfast/training/regularizers); any other name takes the first that is free.
SPARE_COLORS = ("#24292f", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#332288",
                "#117733", "#882255")  # fmt: skip
SPARE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")

# In the page the neutral colors follow the reader's light or dark setting; the colors of data stay.
DARK = {INK: "#e6edf3", MUTED: "#9aa4af", GRID: "#30363d", PAPER: "#161b22", "#24292f": "#f0f3f6",
        "#0072b2": "#459fe6", "#d55e00": "#f0803c", "#009e73": "#2ecf8f",
        "#332288": "#8c82e0", "#117733": "#3fa866", "#882255": "#cc6f9f"}  # fmt: skip

# DejaVu Sans ships with matplotlib, so that every machine draws the same glyphs. An SVG's text is text: a reader
# without that font sees it in one that is as wide, or in any.
FONTS = "'DejaVu Sans', 'Bitstream Vera Sans', Verdana, Geneva, sans-serif"
RC: Any = {
    "font.family": "DejaVu Sans", "font.size": FONT_SIZE, "axes.labelsize": 8, "axes.titlesize": 9,
    "xtick.labelsize": 7, "ytick.labelsize": 7, "legend.fontsize": 7.5, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
    "ytick.major.size": 2.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.5, "axes.axisbelow": True, "axes.facecolor": PAPER,
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "legend.frameon": False, "lines.linewidth": 1.4,
    "lines.markersize": 3.5, "svg.fonttype": "none", "pdf.fonttype": 42, "text.parse_math": False,
    "svg.hashsalt": "regfast",
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
    chosen = _CHOSEN.get()
    as_it_is = _known(regularizer, "proper") or (chosen and regularizer in chosen.given["label"])
    return known if known and as_it_is else (known or "").lower() or regularizer


class _Chosen(NamedTuple):
    given: Mapping[str, Mapping[str, str]]
    met: set[str]


_CHOSEN: ContextVar[_Chosen | None] = ContextVar("chosen", default=None)


@contextmanager
def chosen(labels: Mapping[str, str], colors: Mapping[str, str]) -> Iterator[set[str]]:
    """Inside, `label` and `color` give these, by regularizer, where there is one; yields the names that were asked."""
    met: set[str] = set()
    before = _CHOSEN.set(_Chosen({"label": labels, "color": colors}, met))
    try:
        yield met
    finally:
        _CHOSEN.reset(before)


def _known(regularizer: str, attribute: str) -> Any:
    """What was chosen, else what the registered regularizer says of itself; None where it says nothing."""
    if chosen := _CHOSEN.get():
        chosen.met.add(regularizer)
        if (own := chosen.given.get(attribute, {}).get(regularizer)) is not None:
            return own
    registered = regularizer in REGULARIZERS.names()
    return getattr(REGULARIZERS.find(regularizer), attribute) if registered else None


def _spare(name: str, names: list[str] | None, attribute: str, choices: tuple[str, ...]) -> str:
    known = {n: _known(n, attribute) for n in names or [name]}
    free = [choice for choice in choices if choice not in known.values()]
    others = [n for n, own in known.items() if not own]
    return free[others.index(name) % len(free)] if name in others else free[0]


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run ``draw`` under this module's settings, leaving matplotlib's global ones as they were."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return wrapped


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name.png`` and ``name.svg`` into ``folder``; the same figure gives the same bytes."""
    make_folder(folder)
    png, svg = inside(folder, f"{name}.png"), inside(folder, f"{name}.svg")
    write(figure, svg, png)
    return png, svg


@styled
def write(figure: Figure, *paths: Path) -> None:
    """Write ``figure`` to each path, as its ending says: ``.png`` (220 dpi), ``.svg``, or ``.pdf`` with its fonts."""
    _settle(figure)
    for path in paths:
        if path.suffix == ".svg":
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
            write_text(path, compact(drawn.getvalue()).replace("'DejaVu Sans'", FONTS))
        else:
            plain = {"Software": None} if path.suffix == ".png" else {"Creator": None, "CreationDate": None}
            with replacing(path) as file:
                figure.savefig(file, format=path.suffix[1:], dpi=220, metadata=plain)


def fit(figure: Figure, width: float | None, height: float | None, font_size: float | None) -> None:
    """Give ``figure`` another size, in inches, and text another one, in points; the panels take what is left.

    Without ``height`` the shape stays. Text that is smaller or larger than `FONT_SIZE` stays so in proportion.
    """
    before_width, before_height = figure.get_size_inches()
    width = width or before_width
    figure.set_size_inches(width, height or before_height * width / before_width)
    if font_size is None:
        return
    factor = font_size / FONT_SIZE
    ticks = {axis: axis.get_ticklabels()[:1] for axis in figure.findobj(Axis)}
    sizes = {axis: factor * float(label[0].get_fontsize()) for axis, label in ticks.items() if label}
    for text in figure.findobj(Text):
        text.set_fontsize(factor * float(text.get_fontsize()))
    for axis, size in sizes.items():
        axis.set_tick_params(which="both", labelsize=size)


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
