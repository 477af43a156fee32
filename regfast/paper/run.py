"""Running a paper: its studies, then the pieces beside them, then the result files of docs/reference/files.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regfast.paper.config import PaperConfig, study_folder
from regfast.paper.parts import PARTS
from regfast.paper.pieces import Tables, piece_folder, pieces_of, read_piece, run_piece
from regfast.study import Progress, StudyConfig, run_study
from regfast.study.config import differences
from regfast.study.files import read_json, write_json, write_table
from regfast.study.progress import Silent
from regfast.study.run import environment
from regfast.study.workers import run_all


def run_paper(
    config: PaperConfig,
    run_dir: str | Path,
    *,
    download: bool = False,
    workers: int = 1,
    device: str | torch.device = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> bool:
    """Run the studies of `config` and everything beside them; write the result files to `run_dir`.

    What a former run finished is kept: trained models, measured units, pieces. Interrupting loses at most what is in
    work. Returns False when there was nothing left to do. `regfast.report.write_report(run_dir)` then makes the page.

    `download`, `workers`, `device` and `command` as in `regfast.study.run_study`.

    Raises:
        ValueError: `run_dir` holds a run with other options (all differences are named), or damaged files.
        FileNotFoundError: a data set is not where `config` says.
    """
    folder, told = Path(run_dir), progress or Silent()
    _keep_config(folder, config, command, device)
    pieces = pieces_of(config)
    left = [piece for piece in pieces if not piece_folder(folder, piece).is_dir()]
    total = sum(map(_study_steps, config.studies)) + sum(piece.steps for piece in pieces)
    told.start(total, sum(piece.steps for piece in pieces if piece not in left))
    did = False
    for study in config.studies:
        part = _Part(told, f"{study.dataset}, {study.model}: ")
        place = folder / study_folder(study)
        ran = run_study(study, place, download=download, workers=workers, device=device, command=command, progress=part)
        if not ran:
            told.advance(_study_steps(study))
        did |= ran
    run_all(partial(run_piece, config, folder, torch.device(device)), left, workers, told)
    if did or left or not all((folder / f"{part.name}.parquet").is_file() for part in PARTS):
        told.say("tables")
        _assemble(folder, config, [read_piece(folder, piece) for piece in pieces])
        return True
    return False


class _Part(Silent):
    """The progress of one study inside the run's."""

    def __init__(self, whole: Progress, prefix: str):
        self._whole, self._prefix = whole, prefix

    def start(self, total: int, done: int) -> None:
        self._whole.advance(done)

    def advance(self, steps: int = 1) -> None:
        self._whole.advance(steps)

    def say(self, doing: str) -> None:
        self._whole.say(self._prefix + doing)


def _study_steps(study: StudyConfig) -> int:
    units = len(study.regularizers) * len(study.seeds)
    return units * (study.recipe.epochs + len(study.attacks) + len(study.sweep.eps))


def _keep_config(folder: Path, config: PaperConfig, command: str, device: str | torch.device) -> None:
    """Write `config.json`, or check that the one that is there says the same."""
    resolved, stored_at = config.as_dict(), folder / "config.json"
    if not stored_at.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(stored_at, {**resolved, "command": command, "environment": environment(device)})
        return
    stored = read_json(stored_at)
    different = differences(_comparable(stored), _comparable(resolved))
    if different:
        raise ValueError(f"{folder} holds another run ({'; '.join(different)}); choose another folder or remove it")


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in config.items() if name not in ("command", "environment", "studies")}
    return {**kept, "studies": [entry["folder"] for entry in config.get("studies", [])]}


def _assemble(folder: Path, config: PaperConfig, pieces: list[Tables]) -> None:
    """One result file a part, from what the pieces hold of it."""
    for part in PARTS:
        own = [tables[part.name] for tables in pieces if part.name in tables]
        if part.has("of_study"):
            own.append(part.of_study(folder / study_folder(config.main)))
        table = {column: np.concatenate([piece[column] for piece in own]) for column in own[0]}
        write_table(folder / f"{part.name}.parquet", part.combined(table))
