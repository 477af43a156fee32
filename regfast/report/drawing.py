"""What a figure is to the page: the picture, what to look for, what was found, and the numbers behind it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from regfast.runs.text import spreadsheet


@dataclass(frozen=True, eq=False)
class Drawing:
    """One figure of the page. ``name`` is its file name; ``data`` maps a table's name to its columns."""

    name: str
    title: str
    figure: Figure
    look: str
    found: str
    data: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    svg: Path | None = None  # where the figure already is, if another page has drawn it
    settings: str = ""  # values of ours that the paper's public text leaves open, said next to the figure
    paper: Sequence[int] = ()  # the paper's figures that it is


def cell(value: Any) -> str:
    """A number for a table or CSV: five significant digits, whole numbers as they are, nothing for NaN."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return "" if np.isnan(value) else f"{value:.5g}"
    return str(value)


def to_csv(columns: Mapping[str, Sequence[Any]]) -> str:
    """``columns`` as CSV text with a header line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(spreadsheet, columns))
    rows = zip(*([spreadsheet(cell(v)) for v in values] for values in columns.values()), strict=True)
    writer.writerows(rows)
    return out.getvalue()


def data_address(content: str, kind: str) -> Markup:
    """``content`` as a ``data:`` address, percent-encoded: base64 would be a third longer.

    It holds no character that ends an attribute in double quotes or that HTML escapes.
    """
    encoded = re.sub(r'[%#<>&"\n\r\t]', lambda found: f"%{ord(found[0]):02X}", content)
    return Markup(f"data:{kind},{encoded}")


def stack(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows given as dictionaries with the same keys, turned into columns."""
    return {key: [row[key] for row in tables] for key in tables[0]} if tables else {}


def sentence(parts: Sequence[str]) -> str:
    """``parts`` joined as in a sentence: "a, b and c"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""
