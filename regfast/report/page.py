"""The HTML page: one self-contained file, written from a `Page` by the templates beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from regfast.report import style
from regfast.report.claims import RULE, Verdict
from regfast.report.drawing import Drawing, cell, data_address, sentence, to_csv
from regfast.report.tables import Table, number, text, to_latex, to_markdown
from regfast.report.tables import to_csv as table_csv

MEASURES = 2  # a claim with more measures is summed up per regularizer
PREVIEW = 12  # rows of a figure's numbers shown on the page; the whole table is in its download
SYMBOLS = {"holds": "✓", "does not hold": "✗", "undecided": "?"}


@dataclass(frozen=True)
class Section:
    """A heading with tables and figures; ``formulas`` names macros of templates/formulas.html.j2 to show first."""

    id: str
    title: str
    intro: str = ""
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    formulas: Sequence[str] = ()


@dataclass(frozen=True)
class VerdictGroup:
    """The verdicts of one study; ``title`` names it where a page has several."""

    title: str
    verdicts: Sequence[Verdict]
    regularizers: Sequence[str]


@dataclass(frozen=True)
class Page:
    """What a page says, as data. Every string is plain text: the templates escape it."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    verdicts: Sequence[VerdictGroup]
    verdict_note: str
    sections: Sequence[Section]
    settings: Sequence[tuple[str, str, bool]]  # name, value, whether the paper's public text leaves it open
    environment: Sequence[tuple[str, str]]
    formulas: Sequence[str] = ("rms", "center", "cosine", "in_span", "ece", "asr")
    settings_note: str = ""  # by default what the paper leaves open
    sources: str = ""  # by default the files of a study


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


def claim_lines(verdicts: Sequence[Verdict]) -> list[tuple[str, dict[str, int], list[str]]]:
    """Per claim: its name, how many comparisons gave each answer, and a sentence per measure."""
    lines = []
    for claim in dict.fromkeys(v.claim for v in verdicts):
        mine = [v for v in verdicts if v.claim == claim]
        counts = {answer: sum(v.answer == answer for v in mine) for answer in SYMBOLS}
        sentences = []
        for measure in dict.fromkeys(v.measure for v in mine):
            named = {
                answer: [style.in_sentence(v.regularizer) for v in mine if v.measure == measure and v.answer == answer]
                for answer in SYMBOLS
            }
            parts = [f"{answer} for {sentence(names)}" for answer, names in named.items() if names]
            sentences.append(f"{measure[0].upper()}{measure[1:]}: {'; '.join(parts)}.")
        if len(sentences) > MEASURES:
            sentences = _by_regularizer(mine)
        lines.append((claim, counts, sentences))
    return lines


def _by_regularizer(verdicts: Sequence[Verdict]) -> list[str]:
    # A sentence for each of many attacks would be the table once more: count per regularizer instead.
    sentences = []
    for regularizer in dict.fromkeys(v.regularizer for v in verdicts):
        mine = [v.answer for v in verdicts if v.regularizer == regularizer]
        parts = [f"{answer} in {mine.count(answer)}" for answer in SYMBOLS if answer in mine]
        one = f"{mine[0]} in all {len(mine)} attacks"
        sentences.append(f"{style.label(regularizer)}: {one if len(parts) == 1 else sentence(parts)}.")
    return sentences


def preview(columns: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """The first rows of ``columns`` as text."""
    return [[cell(value) for value in row] for row in list(zip(*columns.values(), strict=True))[:PREVIEW]]


def repeated(drawings: Sequence[Drawing]) -> dict[tuple[str, str], Drawing]:
    """Which figure already gives the same numbers, by figure and table: the page holds them once."""
    first: dict[str, Drawing] = {}
    found = {}
    for drawing in drawings:
        for name, columns in drawing.data.items():
            earlier = first.setdefault(to_csv(columns), drawing)
            if earlier is not drawing:
                found[drawing.name, name] = earlier
    return found


def environment() -> jinja2.Environment:
    """The template environment: everything is escaped, and an unknown name is an error."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("regfast.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "csv_address": lambda columns: data_address(to_csv(columns), "text/csv;charset=utf-8"),
        "table_addresses": lambda table: {
            "CSV": ("csv", data_address(table_csv(table), "text/csv;charset=utf-8")),
            "LaTeX": ("tex", data_address(to_latex(table), "text/plain;charset=utf-8")),
            "Markdown": ("md", data_address(to_markdown(table), "text/plain;charset=utf-8")),
        },
        "preview": preview,
        "signed": lambda value: number(value, signed=True),
        "number": number,
        "cell": text,
        "label": style.label,
        "matrix": lambda group: matrix(group.verdicts, group.regularizers),
        "lines": lambda group: claim_lines(group.verdicts),
        "slug": lambda value: value.replace(" ", "-"),
    }
    env.globals |= {"SYMBOLS": SYMBOLS, "RULE": RULE}
    return env


def render(page: Page, figures: Path, regularizers: Sequence[str]) -> str:
    """The page as HTML; ``figures`` is the folder of ``<drawing.name>.svg`` for drawings without a file."""
    env = environment()
    source = env.loader.get_source(env, "page.css")[0] if env.loader else ""
    names = list(regularizers)
    colors = [
        (f"r{k}", style.color(name, names), style.DARK.get(style.color(name, names), style.color(name, names)))
        for k, name in enumerate(names)
    ]
    drawings = [d for section in page.sections for d in section.drawings]
    images = {d.name: style.themed_svg(d.svg or figures / f"{d.name}.svg") for d in drawings}
    return env.get_template("page.html.j2").render(
        page=page,
        regularizers=names,
        css=Markup(source),
        colors=colors,
        images=images,
        repeated=repeated(drawings),
    )
