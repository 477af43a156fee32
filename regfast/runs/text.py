"""Names that a user chose, written into files that other programs read."""

from __future__ import annotations

from typing import Any


def spreadsheet(cell: Any) -> Any:
    """A CSV cell that no spreadsheet takes for a formula: a text that starts like one gets an apostrophe before it."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell  # a negative number


def markdown(text: str) -> str:
    """`text` in a cell or heading of Markdown: no column, tag or line of its own."""
    for special, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("](", "]\\(")):
        text = text.replace(special, escaped)
    return " ".join(text.splitlines())
