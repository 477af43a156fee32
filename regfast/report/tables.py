"""The report's tables, and each of them as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regfast.report import style
from regfast.report.claims import Verdict
from regfast.report.drawing import sentence
from regfast.report.results import Study, attack_name
from regfast.runs.files import make_folder, write_text
from regfast.runs.folder import inside
from regfast.runs.text import markdown, spreadsheet

# Names for readers, in the order of the table. Others follow under the names that metrics.json has, then the ASR rows.
METRICS = {
    "accuracy": "Accuracy",
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "ece": "ECE",
    "ece_adaptive": "ECE, adaptive bins",
    "ece_classwise": "ECE, classwise",
    "ece_temperature": "ECE after temperature scaling",
    "temperature": "Temperature",
    "confidence": "Mean confidence",
    "rms": "Feature RMS",
    "rms_in_span": "RMS, in-span part",
    "share_in_span": "In-span share",
    "cosine": "Cosine to v_opt, true class",
    "cosine_predicted": "Cosine to v_opt, predicted class",
    "cosine_in_span": "Cosine, in-span part",
    "radius": "Radius r of v_opt",
}
ERRORS = (
    "Few samples make a calibration error too large; its interval (basic bootstrap) takes that off, and so reaches "
    "further down than up."
)
LATEX_SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "→": r"$\to$",
    "−": "$-$",
    "ε": r"$\varepsilon$",
    "ℓ": r"$\ell$",
    "∞": r"$\infty$",
    "₁": "$_1$",
    "₂": "$_2$",
}


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; shown as ``mean [low, high]``."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "–"
        return f"{number(self.mean)} [{number(self.low)}, {number(self.high)}]"


Cell = str | float | Estimate


@dataclass(frozen=True)
class Table:
    """Rows of cells under a head; ``name`` is the file name, ``note`` what a reader must know."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    stacked: bool = False  # a wide table shows intervals under their estimates


def number(value: float, signed: bool = False) -> str:
    """``value`` with about three significant digits and a true minus sign; "–" for NaN."""
    if math.isnan(value):
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "−") if float(text) else text.lstrip("+-−")


def listed(values: Mapping[str, float]) -> str:
    """A figure per regularizer in a sentence: "hard labels 0.61, label smoothing 0.52 and Mixup 0.59"."""
    return sentence([f"{style.in_sentence(name)} {number(value)}" for name, value in values.items()])


def metrics_table(study: Study) -> Table:
    """Mean over seeds and bootstrap interval of every metric, one row a metric, one column a regularizer."""
    measured: Mapping[str, Mapping[str, Mapping[str, float]]] = study.metrics.get("regularizers", {})
    others = {name: name for found in measured.values() for name in found if not name.startswith("asr_")}
    names = METRICS | {name: METRICS.get(name, name) for name in others}
    names |= {f"asr_{a['id']}": f"ASR, {attack_name(a)}" for a in study.config.get("attacks", [])}
    rows: list[list[Cell]] = []
    for metric, title in names.items():
        cells = [measured.get(name, {}).get(metric) for name in study.regularizers]
        if any(cells):
            rows.append([title, *(estimate(c) for c in cells)])
    seeds = len(study.seeds)
    note = f"Mean over {seeds} seed{'s' * (seeds != 1)} and bootstrap 95 % interval. "
    note += "ASR counts only samples that the model classified correctly. "
    note += ERRORS
    head = ["", *map(style.label, study.regularizers)]
    return Table("metrics", "Every measure", head, rows, note, stacked=len(head) > 5)


def estimate(value: Mapping[str, Any] | None) -> Estimate:
    """A metric of metrics.json; NaN where it is missing."""
    value = value or {}
    nan = float("nan")
    return Estimate(*(float(nan if value.get(key) is None else value[key]) for key in ("mean", "low", "high")))


def verdict_table(verdicts: Sequence[Verdict], name: str = "verdicts", title: str = "Verdicts") -> Table:
    """One row a verdict, for the files; the page shows them as a matrix."""
    rows: list[list[Cell]] = [
        [v.claim, v.measure, style.label(v.regularizer), v.before, v.after, Estimate(v.effect, v.low, v.high), v.answer]
        for v in verdicts
    ]
    return Table(name, title, ["claim", "measure", "regularizer", "before", "after", "effect", "verdict"], rows)


def text(cell: Cell) -> str:
    """A cell as a reader sees it."""
    return number(cell) if isinstance(cell, float) else str(cell)


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(markdown, cells)) + " |"

    rule = "|" + "|".join([" --- ", *[" ---: "] * (len(table.head) - 1)]) + "|"
    return "\n".join([line(table.head), rule, *(line([text(c) for c in row]) for row in table.rows)]) + "\n"


def to_latex(table: Table) -> str:
    """A LaTeX tabular for booktabs; names are escaped."""

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX_SPECIAL.get(c, c) for c in " ".join(cell.split())) for cell in cells) + r" \\"

    body = "\n".join(line([text(c) for c in row]) for row in table.rows)
    columns = "l" + "r" * (len(table.head) - 1)
    head = f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(table.head)}\n\\midrule\n"
    return f"{head}{body}\n\\bottomrule\n\\end{{tabular}}\n"


def to_csv(table: Table) -> str:
    """CSV with full precision; an estimate becomes three columns: mean, low, high."""
    wide = [any(isinstance(row[k], Estimate) for row in table.rows) for k in range(len(table.head))]
    head = [
        part
        for name, is_wide in zip(table.head, wide, strict=True)
        for part in ([f"{name} mean", f"{name} low", f"{name} high"] if is_wide else [name])
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(spreadsheet, head))
    for row in table.rows:
        cells: list[object] = []
        for cell, is_wide in zip(row, wide, strict=True):
            cells += (
                [cell.mean, cell.low, cell.high]
                if isinstance(cell, Estimate)
                else [spreadsheet(cell)] + [""] * (2 * is_wide)
            )
        writer.writerow(cells)
    return out.getvalue()


def write(tables: Sequence[Table], folder: Path) -> None:
    """Every table as ``name.md``, ``name.tex`` and ``name.csv`` in ``folder``."""
    make_folder(folder)
    for table in tables:
        for suffix, render in ((".md", to_markdown), (".tex", to_latex), (".csv", to_csv)):
            write_text(inside(folder, table.name + suffix), render(table))
