"""The HTML page: one self-contained file, written from a `Page` by the templates beside this file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from regfast.report import style
from regfast.report.claims import RULE, Verdict
from regfast.report.drawing import Drawing, cell, sentence, to_csv
from regfast.report.tables import Table, number, text
from regfast.report.tables import to_csv as table_csv
from regfast.report.tables import to_latex, to_markdown

PREVIEW = 12  # rows of a figure's numbers shown on the page; the whole table is in its download
SYMBOLS = {"holds": "✓", "does not hold": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Section:
    """A heading with figures and tables under it; ``formulas`` names macros of templates/formulas.html.j2 to show first."""

    id: str
    title: str
    intro: str = ""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    formulas: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """What a page says, as data. Every string is plain text: the templates escape it."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    verdicts: Sequence[Verdict]
    verdict_note: str
    sections: Sequence[Section]
    settings: Sequence[tuple[str, str, bool]]  # name, value, whether the paper's public text leaves it open
    environment: Sequence[tuple[str, str]]
    formulas: Sequence[str] = field(default_factory=lambda: ("rms", "center", "cosine", "in_span", "ece", "asr"))


@dataclass(frozen=True)
class ClaimRow:
    """One measure of a claim with a verdict (or none) per regularizer, in the matrix's column order."""

    measure: str
    cells: Sequence[Verdict | None]


def matrix(verdicts: Sequence[Verdict], regularizers: Sequence[str]) -> dict[str, list[ClaimRow]]:
    """The verdicts grouped by claim, then measure, each a row over ``regularizers``."""
    groups: dict[str, dict[str, dict[str, Verdict]]] = {}
    for v in verdicts:
        groups.setdefault(v.claim, {}).setdefault(v.measure, {})[v.regularizer] = v
    return {
        claim: [ClaimRow(measure, [cells.get(r) for r in regularizers]) for measure, cells in rows.items()]
        for claim, rows in groups.items()
    }


def claim_lines(verdicts: Sequence[Verdict]) -> list[tuple[str, dict[str, int], str]]:
    """Per claim: its name, how many comparisons gave each answer, and a sentence that names those that don't hold."""
    lines = []
    for claim in dict.fromkeys(v.claim for v in verdicts):
        mine = [v for v in verdicts if v.claim == claim]
        counts = {answer: sum(v.answer == answer for v in mine) for answer in SYMBOLS}
        parts = []
        for answer in SYMBOLS:
            by_measure: dict[str, list[str]] = {}
            for v in mine:
                if v.answer == answer:
                    by_measure.setdefault(v.measure, []).append(style.label(v.regularizer))
            if by_measure:
                named = "; ".join(f"{sentence(names)} ({measure})" for measure, names in by_measure.items())
                parts.append(f"{answer[0].upper()}{answer[1:]}: {named}.")
        everywhere = [a for a in SYMBOLS if counts[a] == len(mine)]
        lines.append((claim, counts, f"{everywhere[0][0].upper()}{everywhere[0][1:]} in every comparison." if everywhere else " ".join(parts)))
    return lines


def data_address(content: str, kind: str) -> str:
    """``content`` as a ``data:`` address for a download link."""
    return f"data:{kind};charset=utf-8;base64," + base64.b64encode(content.encode()).decode()


def preview(columns: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """The first rows of ``columns`` as text."""
    return [[cell(value) for value in row] for row in list(zip(*columns.values(), strict=True))[:PREVIEW]]


def environment() -> jinja2.Environment:
    """The template environment: everything is escaped, an unknown name is an error, nothing is read but the templates."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("regfast.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters |= {
        "csv_address": lambda columns: data_address(to_csv(columns), "text/csv"),
        "table_addresses": lambda table: {
            "CSV": ("csv", data_address(table_csv(table), "text/csv")),
            "LaTeX": ("tex", data_address(to_latex(table), "text/plain")),
            "Markdown": ("md", data_address(to_markdown(table), "text/plain")),
        },
        "preview": preview,
        "signed": lambda value: number(value, signed=True),
        "number": number,
        "cell": text,
        "label": style.label,
        "slug": lambda value: value.replace(" ", "-"),
    }
    env.globals |= {"SYMBOLS": SYMBOLS, "RULE": RULE}
    return env


def render(page: Page, figures: Path, regularizers: Sequence[str]) -> str:
    """The page as HTML; ``figures`` is the folder that holds ``<drawing.name>.svg`` for every drawing."""
    env = environment()
    source = env.loader.get_source(env, "page.css")[0] if env.loader else ""
    names = list(regularizers)
    colours = [(f"r{k}", style.colour(name, names), style.DARK.get(style.colour(name, names), style.colour(name, names))) for k, name in enumerate(names)]
    images = {d.name: style.themed_svg(figures / f"{d.name}.svg") for s in page.sections for d in s.drawings}
    return env.get_template("page.html.j2").render(
        page=page, regularizers=names, matrix=matrix(page.verdicts, names), lines=claim_lines(page.verdicts), css=Markup(source),  # noqa: S704
        colours=colours, images=images,
    )  # fmt: skip
