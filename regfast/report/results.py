"""Reading the result files of a study (docs/reference/files.md): the report's only input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regfast.evaluation.summary import eps_text
from regfast.runs import files
from regfast.runs.errors import InputError, MissingInput
from regfast.runs.files import read_json

Columns = Mapping[str, npt.NDArray[Any]]
SAMPLE_COLUMNS = ("regularizer", "seed", "sample", "label", "prediction", "correct", "confidence", "rms", "cosine")
SWEEP_COLUMNS = ("regularizer", "seed", "attack", "norm", "eps", "correct", "success", "asr")
CURVE_COLUMNS = ("regularizer", "seed", "epoch", "loss", "accuracy", "rms", "cosine")
NORMS = {"linf": "ℓ∞", "l2": "ℓ₂", "l1": "ℓ₁"}


def read_columns(path: Path, required: Iterable[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """The columns of a Parquet file as NumPy arrays; ``required`` names those that must be there."""
    columns = files.read_columns(path)
    missing = [name for name in required if name not in columns]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(columns)}")
    return columns


@dataclass(frozen=True)
class Study:
    """The result files of one study. ``samples``, ``sweep`` and ``curves`` map a column's name to its values."""

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    samples: Columns
    sweep: Columns = field(default_factory=dict)
    curves: Columns = field(default_factory=dict)

    @classmethod
    def read(cls, run_dir: str | Path) -> Study:
        """Read ``run_dir``; MissingInput for a missing file, InputError for one that doesn't fit the schema.

        Networks that were measured and not trained have no curves.
        """
        path = Path(run_dir)
        if not path.is_dir():
            raise MissingInput(f"run_dir: {path} is not a folder; expected one that `regfast study` has written")
        config, curves = read_json(path / "config.json"), path / "curves.parquet"
        study = cls(
            path,
            config,
            read_json(path / "metrics.json"),
            read_columns(path / "samples.parquet", SAMPLE_COLUMNS),
            read_columns(path / "sweep.parquet", SWEEP_COLUMNS),
            {} if config.get("kind") == "measure" else read_columns(curves, CURVE_COLUMNS),
        )
        study.order  # noqa: B018  (checks that every model was measured on the same samples)
        return study

    @cached_property
    def regularizers(self) -> list[str]:
        """Names in the order of config.json, the reference first, because everything is compared with it."""
        configured = list(self.config.get("regularizers", {}))
        present = set(np.unique(self.samples["regularizer"].astype(str)).tolist())
        if present - set(configured):
            raise InputError(
                f"samples.parquet has regularizers that config.json lacks: {sorted(present - set(configured))}"
            )
        return sorted((name for name in configured if name in present), key=lambda name: name != self.reference)

    @property
    def reference(self) -> str:
        """The regularizer, or network, that the others are compared with: config.json's, or hard labels."""
        return str(self.config.get("reference", "hard"))

    @cached_property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return [int(seed) for seed in np.unique(self.samples["seed"])]

    @property
    def attacks(self) -> list[dict[str, Any]]:
        """The attacks of config.json whose per-sample successes are in samples.parquet."""
        return [a for a in self.config.get("attacks", []) if f"success_{a['id']}" in self.samples]

    @cached_property
    def order(self) -> dict[str, npt.NDArray[np.int64]]:
        """Per regularizer, the rows of ``samples`` as (seeds, samples), so that all of them are paired."""
        names, seeds = self.samples["regularizer"].astype(str), self.samples["seed"]
        reference: npt.NDArray[Any] | None = None
        order: dict[str, npt.NDArray[np.int64]] = {}
        for name in self.regularizers:
            rows = []
            for seed in self.seeds:
                found = np.flatnonzero((names == name) & (seeds == seed))
                found = found[np.argsort(self.samples["sample"][found], kind="stable")]
                ids = self.samples["sample"][found]
                reference = ids if reference is None else reference
                if not np.array_equal(ids, reference) or len(np.unique(ids)) != len(ids):
                    raise InputError(
                        f"samples.parquet: {name} with seed {seed} was not measured on the same samples, once each"
                    )
                rows.append(found)
            order[name] = np.stack(rows)
        return order

    def column(self, name: str, regularizer: str) -> npt.NDArray[Any]:
        """Column ``name`` of samples.parquet for one regularizer, (seeds, samples), paired across regularizers."""
        if name not in self.samples:
            raise KeyError(f"samples.parquet has no column {name!r}; it has {', '.join(self.samples)}")
        return self.samples[name][self.order[regularizer]]

    def judged(self, regularizer: str) -> npt.NDArray[np.bool_]:
        """(seeds, samples): which samples an attack's success counts of: correct, and attacked where not all were."""
        correct = self.column("correct", regularizer).astype(bool)
        return correct & self.column("attacked", regularizer).astype(bool) if "attacked" in self.samples else correct

    def rows(self, table: Columns, **equal: object) -> dict[str, npt.NDArray[Any]]:
        """The rows of ``table`` whose columns equal the given values."""
        keep = np.ones(len(next(iter(table.values()))), dtype=bool)
        for name, value in equal.items():
            keep &= table[name] == value
        return {name: values[keep] for name, values in table.items()}


def attack_name(attack: Mapping[str, Any]) -> str:
    """An attack of config.json in words: name, steps, norm and size, setting."""
    name = str(attack["attack"])
    name = name.upper() if len(name) <= 4 else name.replace("autoattack", "AutoAttack")
    steps = f"-{attack['steps']}" if attack.get("steps") and name != "FGSM" else ""
    norm = NORMS.get(str(attack.get("norm")), str(attack.get("norm", "")))
    eps = f" ε = {eps_text(attack['eps'])}" if attack.get("eps") is not None else ""
    setting = f", {attack['setting']}" if attack.get("setting") else ""
    return f"{name}{steps} ({norm}{eps}{setting})"
