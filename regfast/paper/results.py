"""Reading the result files of a paper run (docs/reference/files.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regfast.report.figures.plane import Plane
from regfast.report.results import Columns, Study, read_columns
from regfast.runs.errors import InputError
from regfast.runs.files import read_json
from regfast.runs.folder import inside

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Paper:
    """The result files of a paper run: its studies, and the tables beside them that are there."""

    path: Path
    config: dict[str, Any]
    studies: Sequence[Study]
    tables: dict[str, Columns]

    @classmethod
    def read(cls, run_dir: str | Path, schemas: Mapping[str, Iterable[str]]) -> Paper:
        """Read ``run_dir``, of the tables those of ``schemas``: name without ``.parquet`` to the columns it must have.

        Every table is optional. MissingInput for a missing file, InputError for one that doesn't fit the schema.
        """
        path = Path(run_dir)
        config = read_json(path / "config.json")
        listed = config.get("studies")
        if not listed:
            raise InputError(f"{path / 'config.json'}: studies must list at least one study, found {listed!r}")
        try:
            folders = [inside(path, entry["folder"]) for entry in listed]
        except (TypeError, KeyError) as error:
            raise InputError(f"{path / 'config.json'} is damaged: studies must name their folders") from error
        tables: dict[str, Columns] = {
            name: read_columns(path / f"{name}.parquet", columns)
            for name, columns in schemas.items()
            if (path / f"{name}.parquet").is_file()
        }
        return cls(path, config, [Study.read(folder) for folder in folders], tables)

    @property
    def main(self) -> Study:
        """The first study: the one that the parts beside the studies are about."""
        return self.studies[0]

    def regularizers(self, table: Columns) -> list[str]:
        """The regularizers of ``table`` in the main study's order."""
        present = set(table["regularizer"].astype(str).tolist())
        return [n for n in self.main.regularizers if n in present] + sorted(present - set(self.main.regularizers))


def where(table: Columns, **equal: object) -> dict[str, Array]:
    """The rows of ``table`` whose columns equal the given values."""
    keep = np.ones(len(next(iter(table.values()))), dtype=bool)
    for name, value in equal.items():
        keep &= table[name] == value
    return {name: values[keep] for name, values in table.items()}


def planes(paper: Paper) -> dict[bool, list[Plane]]:
    """The planes of ``planes.parquet`` by whether the head has a bias: one per regularizer, its first seed."""
    table = paper.tables["planes"]
    found: dict[bool, list[Plane]] = {}
    for bias in (False, True):
        for name in paper.regularizers(table):
            rows = where(table, regularizer=name, bias=bias)
            if len(rows["x"]):
                found.setdefault(bias, []).append(_plane(name, where(rows, seed=rows["seed"].min())))
    return found


def _plane(name: str, rows: Columns) -> Plane:
    def points(kind: str, key: str) -> tuple[Array, dict[str, Array]]:
        mine = where(rows, kind=kind)
        order = np.argsort(mine[key], kind="stable")
        mine = {column: values[order] for column, values in mine.items()}
        return np.stack([mine["x"], mine["y"]], axis=1).astype(float), mine

    weight, heads = points("weight", "label")
    features, samples = points("feature", "sample")
    moved, attacked = points("perturbed", "sample")
    perturbed = np.full_like(features, np.nan)
    if len(moved):
        joined = np.searchsorted(samples["sample"], attacked["sample"])
        if joined.max() >= len(samples["sample"]) or (samples["sample"][joined] != attacked["sample"]).any():
            raise InputError(f"planes.parquet: {name} has perturbed samples without a clean feature")
        perturbed[joined] = moved
    means, centers = points("mean", "label")[0], points("center", "label")[0]
    if not len(weight) == len(means) == len(centers) > 0 or not len(features):
        raise InputError(
            f"planes.parquet: {name} needs a weight, mean and center per class and features, found {len(weight)}, "
            f"{len(means)}, {len(centers)} and {len(features)}"
        )
    return Plane(name, weight, heads["offset"].astype(float), means, centers, features, samples["label"], perturbed)
