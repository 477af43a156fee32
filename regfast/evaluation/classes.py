"""Clean and robust accuracy per class."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from regfast.evaluation.samples import OK
from regfast.runs.files import write_text

__all__ = ["ClassRow", "class_rows", "read_classes", "write_classes"]

FILE = "classes.csv"


@dataclass(frozen=True)
class ClassRow:
    """One class: its usable samples, how many are right, and right still under every attack at its largest eps."""

    label: int
    name: str
    samples: int
    clean: int
    robust: int


def class_rows(rows: pa.Table, names: Sequence[str] | Mapping[int, str] = ()) -> list[ClassRow]:
    """Per class that occurs, by label.

    Args:
        rows: of a run (`regfast.evaluation.store.SCHEMA`).
        names: of the classes, by label; a class without one is named by its label.
    """
    usable = rows.filter(pc.equal(rows["status"], OK))
    of_sample = usable.group_by(["sample", "label"]).aggregate([("correct", "min"), ("robust", "min")])
    counted = of_sample.group_by("label").aggregate(
        [("sample", "count"), ("correct_min", "sum"), ("robust_min", "sum")]
    )
    known = dict(enumerate(names)) if isinstance(names, Sequence) else dict(names)
    return [
        ClassRow(
            row["label"],
            known.get(row["label"], str(row["label"])),
            row["sample_count"],
            row["correct_min_sum"],
            row["robust_min_sum"],
        )
        for row in counted.sort_by("label").to_pylist()
    ]


def write_classes(folder: Path, rows: Sequence[ClassRow]) -> None:
    """Write `classes.csv` into `folder`; a name that a spreadsheet would take for a formula gets a quote before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(ClassRow)])
    for row in rows:
        label, name, *counts = astuple(row)
        writer.writerow([label, f"'{name}" if name.startswith(("=", "+", "-", "@")) else name, *counts])
    write_text(folder / FILE, out.getvalue())


def read_classes(folder: Path) -> list[ClassRow]:
    """The rows of `classes.csv` in `folder`; none if there is no such file."""
    path = folder / FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            ClassRow(int(row["label"]), row["name"], *(int(row[key]) for key in ("samples", "clean", "robust")))
            for row in csv.DictReader(file)
        ]
