"""The pieces of a paper run: each is computed alone, in any process, and kept when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regfast.data import load_splits
from regfast.paper.config import PaperConfig, study_folder
from regfast.paper.one_model import (
    boundary_columns,
    feature_attack_columns,
    objective_rows,
    predictor_rows,
    radius_rows,
    scaling_rows,
    smooth_columns,
)
from regfast.paper.outputs import outputs_of, splits_of, unit_of
from regfast.paper.pairs import counterfactual_rows, transfer_rows
from regfast.paper.planes import bottleneck_model, plane
from regfast.paper.theorem import head_rows, known_heads
from regfast.study import Progress, built
from regfast.study.files import read_columns, write_table
from regfast.training import train

Columns = dict[str, NDArray[Any]]
Tables = dict[str, Columns]


@dataclass(frozen=True)
class Piece:
    """One piece: what `kind` of work, for which regularizer, seed and bias; `steps` of the progress bar it takes."""

    kind: str
    steps: int
    regularizer: str = ""
    seed: int = 0
    bias: bool = False

    @property
    def name(self) -> str:
        """Its folder under `parts/`: `plane-hard-bias`, `model-hard-seed0`."""
        if self.kind == "plane":
            return f"plane-{self.regularizer}-{'bias' if self.bias else 'no-bias'}"
        return "-".join(filter(None, (self.kind, self.regularizer, f"seed{self.seed}")))


def pieces_of(config: PaperConfig) -> list[Piece]:
    """Every piece of a run, in the order of its rows."""
    main = config.main
    names = list(main.regularizers)
    return [
        Piece("heads", 1),
        *(
            Piece("plane", config.parts["planes"]["epochs"] + 2, name, config.parts["planes"]["seed"], bias)
            for name in names
            for bias in (False, True)
        ),
        *(Piece("model", 5, name, seed) for name in names for seed in main.seeds),
        *(Piece("pairs", 5, seed=seed) for seed in main.seeds),
    ]


def piece_folder(run_dir: Path, piece: Piece) -> Path:
    """Where a piece lies; it is whole when the folder is there."""
    return run_dir / "parts" / piece.name


def read_piece(run_dir: Path, piece: Piece) -> Tables:
    """The tables of a finished piece."""
    return {path.stem: read_columns(path) for path in sorted(piece_folder(run_dir, piece).glob("*.parquet"))}


def run_piece(config: PaperConfig, run_dir: Path, device: torch.device, piece: Piece, progress: Progress) -> None:
    """Compute a piece and write its tables to a folder that is renamed at the end."""
    progress.say(piece.name.replace("-", " "))
    kinds = {"heads": _heads, "plane": _plane, "model": _model, "pairs": _pairs}
    tables = kinds[piece.kind](config, run_dir, device, piece, progress)
    folder = piece_folder(run_dir, piece)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, columns in tables.items():
        write_table(temporary / f"{name}.parquet", columns)
    temporary.rename(folder)


def _heads(config: PaperConfig, run_dir: Path, device: torch.device, piece: Piece, progress: Progress) -> Tables:
    settings = config.parts["theorem1"]
    rows = known_heads(
        splits_of(config.main).num_classes,
        settings["smoothing"],
        settings["ridge"],
        settings["random_dimensions"],
        settings["seed"],
    )
    progress.advance()
    return {"theorem1": _columns(rows)}


def _plane(config: PaperConfig, run_dir: Path, device: torch.device, piece: Piece, progress: Progress) -> Tables:
    settings, study = config.parts["planes"], config.main
    splits = load_splits(settings["dataset"], study.data_root)
    if settings["label"] >= splits.num_classes:
        raise ValueError(f"label must be below {splits.num_classes}, the classes of the data, got {settings['label']}")
    model = bottleneck_model(
        settings["model"], splits.num_classes, splits.image_shape[0], bias=piece.bias, seed=piece.seed
    )
    model.to(device)
    rule = built(piece.regularizer, study.regularizers[piece.regularizer])
    train(
        model, splits.train, splits.holdout, rule, study.recipe, seed=piece.seed, on_epoch=lambda _: progress.advance()
    )
    found = plane(model, splits, **{name: settings[name] for name in ("images", "norm", "eps", "steps")})
    progress.advance(2)
    return {"planes": _named(found, regularizer=piece.regularizer, seed=piece.seed, bias=piece.bias)}


def _model(config: PaperConfig, run_dir: Path, device: torch.device, piece: Piece, progress: Progress) -> Tables:
    parts, splits = config.parts, splits_of(config.main)
    unit = unit_of(run_dir / study_folder(config.main), piece.regularizer, piece.seed)
    outputs = outputs_of(config.main, splits, unit, device)
    samples = read_columns(unit.measured)
    success = {attack.id: samples[f"success_{attack.id}"].astype(bool) for attack in config.main.attacks}
    settings = parts["theorem1"]
    heads = head_rows(unit.name, outputs.weight, outputs.bias, settings["smoothing"], settings["ridge"])
    progress.advance()
    tables: Mapping[str, Columns] = {
        "scaling": _columns(scaling_rows(outputs, parts["scaling"]["scales"], parts["scaling"]["bins"])),
        "radius": _columns(radius_rows(outputs, parts["radius"]["radii"])),
        "smooth": smooth_columns(outputs),
        "boundary": boundary_columns(outputs),
        "feature_attack": feature_attack_columns(outputs, parts["feature_attack"]["steps"]),
    }
    progress.advance()
    tables = {**tables, "predictors": _columns(predictor_rows(outputs, splits.train, success))}
    progress.advance(2)
    settings = {name: parts["objectives"][name] for name in ("norm", "eps", "steps", "targets")}
    objectives = objective_rows(outputs, outputs.images(), seed=piece.seed, **settings)
    progress.advance()
    tables = {**tables, "objectives": _columns(objectives)}
    named = {name: _named(table, regularizer=piece.regularizer, seed=piece.seed) for name, table in tables.items()}
    return {"theorem1": _columns(heads), **named}


def _pairs(config: PaperConfig, run_dir: Path, device: torch.device, piece: Piece, progress: Progress) -> Tables:
    splits, folder = splits_of(config.main), run_dir / study_folder(config.main)
    models = {
        name: outputs_of(config.main, splits, unit_of(folder, name, piece.seed), device)
        for name in config.main.regularizers
    }
    swaps = counterfactual_rows(models, config.parts["counterfactual"]["steps"])
    progress.advance()
    settings = config.parts["transfer"]
    rows = []
    for eps in settings["eps"]:
        name = f"PGD-{settings['steps']} to its last step, eps {eps:.3g}"
        rows += transfer_rows(
            models, norm=settings["norm"], eps=eps, steps=settings["steps"], name=name, seed=piece.seed
        )
        progress.advance(2)
    return {
        "counterfactual": _named(_columns(swaps), seed=piece.seed),
        "transfer": _named(_columns(rows), seed=piece.seed),
    }


def _columns(rows: Iterable[Mapping[str, Any]]) -> Columns:
    listed = list(rows)
    return {name: np.array([row[name] for row in listed]) for name in listed[0]}


def _named(columns: Columns, **names: Any) -> Columns:
    """The columns after constant ones that say what they belong to."""
    count = len(next(iter(columns.values())))
    return {**{name: np.full(count, value) for name, value in names.items()}, **columns}
