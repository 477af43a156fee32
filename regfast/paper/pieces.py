"""The pieces of a paper run: each is computed alone, in any process, and kept when it is whole."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from regfast.paper.config import PaperConfig, study_folder
from regfast.paper.outputs import outputs_of, splits_of, unit_of
from regfast.paper.parts import PARTS, Work
from regfast.paper.parts.base import Columns, named_columns
from regfast.runs.errors import MissingInput
from regfast.runs.files import NotWritten, make_folder, read_columns, write_table
from regfast.runs.progress import Progress

Tables = dict[str, Columns]
# What a kind of piece calls of every part that has it.
_CALLS = {"heads": "of_run", "plane": "of_plane", "model": "of_model", "pairs": "of_seed"}


@dataclass(frozen=True)
class Piece:
    """One piece: what `kind` of work, for which regularizer, seed and bias; `steps` of the progress bar it takes."""

    kind: str
    regularizer: str = ""
    seed: int = 0
    bias: bool = False
    steps: int = 0

    @property
    def name(self) -> str:
        """Its folder under `parts/`: `plane-hard-bias`, `model-hard-seed0`."""
        if self.kind == "plane":
            return f"plane-{self.regularizer}-{'bias' if self.bias else 'no-bias'}"
        return "-".join(filter(None, (self.kind, self.regularizer, f"seed{self.seed}")))


def pieces_of(config: PaperConfig) -> list[Piece]:
    """Every piece of a run, in the order of its rows."""
    names, seeds = list(config.main.regularizers), config.main.seeds
    plane_seed = config.parts["planes"]["seed"]
    pieces = [
        Piece("heads"),
        *(Piece("plane", name, plane_seed, bias) for name in names for bias in (False, True)),
        *(Piece("model", name, seed) for name in names for seed in seeds),
        *(Piece("pairs", seed=seed) for seed in seeds),
    ]
    return [replace(piece, steps=_steps(config, piece)) for piece in pieces]


def _steps(config: PaperConfig, piece: Piece) -> int:
    return sum(1 + part.steps(config.parts[part.name]) for part in PARTS if part.has(_CALLS[piece.kind]))


def piece_folder(run_dir: Path, piece: Piece) -> Path:
    """Where a piece lies; it is whole when the folder is there."""
    return run_dir / "parts" / piece.name


def read_piece(run_dir: Path, piece: Piece) -> Tables:
    """The tables of a finished piece. Raises MissingInput where somebody has removed it meanwhile."""
    folder = piece_folder(run_dir, piece)
    tables: Tables = {path.stem: read_columns(path) for path in sorted(folder.glob("*.parquet"))}
    if not tables:
        raise MissingInput(f"{folder} is missing: the same command makes it again")
    return tables


def run_piece(config: PaperConfig, run_dir: Path, device: torch.device, piece: Piece, progress: Progress) -> None:
    """Compute a piece and write its tables to a folder that is renamed at the end."""
    progress.say(piece.name.replace("-", " "))
    tables = _tables(config, run_dir, device, piece, progress)
    folder = piece_folder(run_dir, piece)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    for name, columns in tables.items():
        write_table(temporary / f"{name}.parquet", columns)
    try:
        temporary.rename(folder)
    except OSError as error:
        raise NotWritten(f"{folder} could not be written: {error.strerror or error}") from error


def _tables(config: PaperConfig, run_dir: Path, device: torch.device, piece: Piece, progress: Progress) -> Tables:
    """What every part that this kind of piece concerns computes."""
    main, splits = config.main, splits_of(config.main)
    folder = run_dir / study_folder(main)
    whose: dict[str, Any] = {}
    inputs: list[Any] = []
    if piece.kind == "model":
        inputs.append(outputs_of(main, splits, unit_of(folder, piece.regularizer, piece.seed), device))
        whose = {"regularizer": piece.regularizer, "seed": piece.seed}
    elif piece.kind == "pairs":
        units = {name: unit_of(folder, name, piece.seed) for name in main.regularizers}
        inputs.append({name: outputs_of(main, splits, unit, device) for name, unit in units.items()})
        whose = {"seed": piece.seed}
    tables: Tables = {}
    for part in PARTS:
        if not part.has(_CALLS[piece.kind]):
            continue
        work = Work(
            config.parts[part.name], main, splits.train, splits.num_classes, device, progress.advance,
            piece.regularizer, piece.seed, piece.bias, unit_of(folder, piece.regularizer, piece.seed).samples,
        )  # fmt: skip
        found = getattr(part, _CALLS[piece.kind])(work, *inputs)
        progress.advance()
        tables[part.name] = named_columns(found, whose) if part.named else found
    return tables
