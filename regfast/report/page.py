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
from regfast.report.figures.bins import thin
from regfast.report.tables import Table, number, text, to_latex, to_markdown
from regfast.report.tables import to_csv as table_csv

MEASURES = 2  # a claim with more measures is summed up per regularizer
ROWS = 6  # regularizers that a card lists
MOST = 3000  # rows of a figure's numbers that the page holds
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
class CardRow:
    """A figure with its interval in a card: of which regularizer, or of what, and the answer it gives ("" for none)."""

    name: str
    text: str
    answer: str = ""


@dataclass(frozen=True)
class Card:
    """One result on the first screen, in words and with its figures."""

    title: str
    words: str
    rows: Sequence[CardRow] = ()
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What a page says, as data. Every string is plain text: the templates escape it.

    The first screen is ``title``, ``notice`` (what a reader must know before anything else), ``lead`` (what ran),
    ``facts``, ``cards`` and the small figure ``glance``; ``glance_of`` is the id of the figure that shows it in full.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    cards: Sequence[Card]
    glance: Drawing | None
    verdicts: Sequence[VerdictGroup]
    verdict_note: str
    sections: Sequence[Section]
    settings: Sequence[tuple[str, str, bool]]  # name, value, whether the paper's public text leaves it open
    environment: Sequence[tuple[str, str]]
    formulas: Sequence[str] = ("rms", "center", "cosine", "in_span", "ece", "asr")
    settings_note: str = ""  # by default what the paper leaves open
    sources: str = ""  # by default the files of a study
    notice: str = ""
    glance_of: str = ""

    @property
    def drawings(self) -> list[Drawing]:
        """Every figure of the page."""
        return [*filter(None, [self.glance]), *(d for section in self.sections for d in section.drawings)]


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


def verdict_cards(verdicts: Sequence[Verdict], reference: str) -> list[Card]:
    """A card a claim: the answer of its leading measure for each regularizer, and in words those of the others."""
    cards = []
    for claim in dict.fromkeys(v.claim for v in verdicts if v.leading):
        mine = [v for v in verdicts if v.claim == claim]
        leading = [v for v in mine if v.leading]
        rows = [
            CardRow(v.regularizer, f"{number(v.effect, signed=True)} [{number(v.low, signed=True)}, "
                    f"{number(v.high, signed=True)}]", v.answer)
            for v in leading[:ROWS]
        ]  # fmt: skip
        first = leading[0]
        note = f"{first.measure[0].upper()}{first.measure[1:]}; {style.in_sentence(reference)}: {number(first.before)}."
        others = list(dict.fromkeys(v.measure for v in mine if not v.leading))
        if len(others) == 1:
            note += f" {_sentence(others[0], [v for v in mine if not v.leading])}"
        elif others:
            note += f" Over all {len(others) + 1} attacks: {_counted([v.answer for v in mine])} comparisons."
        cards.append(Card(claim, _sentence("", leading), rows, note))
    return cards


def _sentence(measure: str, verdicts: Sequence[Verdict]) -> str:
    """For whom a measure's claim holds, for whom not: "Feature RMS: holds for Mixup; undecided for CutMix."."""
    named = {a: [style.in_sentence(v.regularizer) for v in verdicts if v.answer == a] for a in SYMBOLS}
    parts = [f"{answer} for {sentence(names)}" for answer, names in named.items() if names]
    text = f"{measure}: {'; '.join(parts)}." if measure else f"{'; '.join(parts)}."
    return text[0].upper() + text[1:]


def _counted(answers: Sequence[str]) -> str:
    return sentence([f"{answer} in {answers.count(answer)}" for answer in SYMBOLS if answer in answers])


def claim_lines(verdicts: Sequence[Verdict]) -> list[tuple[str, dict[str, int], list[str]]]:
    """Per claim: its name, how many comparisons gave each answer, and a sentence per measure."""
    lines = []
    for claim in dict.fromkeys(v.claim for v in verdicts):
        mine = [v for v in verdicts if v.claim == claim]
        counts = {answer: sum(v.answer == answer for v in mine) for answer in SYMBOLS}
        measures = dict.fromkeys(v.measure for v in mine)
        sentences = [_sentence(measure, [v for v in mine if v.measure == measure]) for measure in measures]
        if len(sentences) > MEASURES:
            sentences = _by_regularizer(mine)
        lines.append((claim, counts, sentences))
    return lines


def _by_regularizer(verdicts: Sequence[Verdict]) -> list[str]:
    # A sentence for each of many attacks would be the table once more: count per regularizer instead.
    sentences = []
    for regularizer in dict.fromkeys(v.regularizer for v in verdicts):
        mine = [v.answer for v in verdicts if v.regularizer == regularizer]
        counted = f"{mine[0]} in all {len(mine)} attacks" if len(set(mine)) == 1 else _counted(mine)
        sentences.append(f"{style.label(regularizer)}: {counted}.")
    return sentences


def preview(columns: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """The first rows of ``columns`` as text."""
    return [[cell(value) for value in row] for row in list(zip(*columns.values(), strict=True))[:PREVIEW]]


@dataclass(frozen=True)
class Numbers:
    """A table behind a figure: at most `MOST` of its ``rows`` rows, evenly picked."""

    columns: Mapping[str, Sequence[Any]]
    rows: int

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]]) -> Numbers:
        """What the page holds of ``columns``."""
        rows = len(next(iter(columns.values())))
        kept = thin(rows, MOST)
        return cls({name: [values[k] for k in kept] for name, values in columns.items()}, rows)


def repeated(numbers: Mapping[Drawing, Mapping[str, Numbers]]) -> dict[tuple[str, str], Drawing]:
    """Which figure already gives the same numbers, by figure and table: the page holds them once."""
    first: dict[str, Drawing] = {}
    found = {}
    for drawing, tables in numbers.items():
        for name, table in tables.items():
            earlier = first.setdefault(to_csv(table.columns), drawing)
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
    env.globals |= {"SYMBOLS": SYMBOLS, "RULE": RULE, "MOST": MOST}
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
    drawings = page.drawings
    numbers = {d: {name: Numbers.of(columns) for name, columns in d.data.items() if columns} for d in drawings}
    images = {d.name: style.themed_svg(d.svg or figures / f"{d.name}.svg") for d in drawings}
    return env.get_template("page.html.j2").render(
        page=page,
        regularizers=names,
        css=Markup(source),
        colors=colors,
        images=images,
        numbers={d.name: tables for d, tables in numbers.items()},
        repeated=repeated(numbers),
    )
