"""Running a paper: its studies, then the pieces beside them, then the result files of docs/reference/files.md."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regfast.paper.config import PaperConfig, study_folder
from regfast.paper.parts import PARTS
from regfast.paper.pieces import Tables, piece_folder, pieces_of, read_piece, run_piece
from regfast.runs.errors import user_input
from regfast.runs.files import read_json, remove_unfinished, write_json, write_table
from regfast.runs.folder import alone, check_kind, check_same
from regfast.runs.group import agree, join, share_all
from regfast.runs.progress import Progress, Silent
from regfast.study import StudyConfig, run_study
from regfast.study.run import environment, is_finished


def run_paper(
    config: PaperConfig,
    run_dir: str | Path,
    *,
    download: bool = False,
    workers: int = 1,
    device: str | torch.device | None = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> bool:
    """Run the studies of `config` and everything beside them; write the result files to `run_dir`.

    What a former run finished is kept: trained models, measured units, pieces. Interrupting loses at most what is in
    work. Returns False when there was nothing left to do. `regfast.report.write_report(run_dir)` then makes the page.
    Under torchrun every rank calls this with the same arguments, and they share the work.

    `download`, `workers`, `device` and `command` as in `regfast.study.run_study`.

    Raises:
        InputError: `run_dir` holds a run of another kind, with other options or data (all differences are named), or
            damaged files; a class to draw that the data does not have.
        RunStopped: another job is writing to `run_dir`, or a file cannot be written.
        MissingInput: a data set is not where `config` says.
    """
    group = join(device)
    told, folder = (progress if group.leads else None) or Silent(), Path(run_dir)
    pieces = pieces_of(config)
    with ExitStack() as held:
        held.enter_context(group.watched())
        names = agree(group, lambda: _open(config, folder, download, group.device, command, held))
        if names is None:
            group.leave()
            return False
        left = [piece for piece in pieces if piece.name in names]
        total = sum(map(_study_steps, config.studies)) + sum(piece.steps for piece in pieces)
        told.start(total, sum(piece.steps for piece in pieces if piece.name not in names))
        for study in config.studies:
            inside = _Part(told, f"{study.dataset}, {study.model}: ")
            options: dict[str, Any] = {"workers": workers, "device": group.device, "command": command}
            if not run_study(study, folder / study_folder(study), download=download, progress=inside, **options):
                told.advance(_study_steps(study))
        work = partial(run_piece, config, folder, group.device)
        share_all(group, work, left, "pieces", workers, told)
        told.say("tables")
        agree(group, lambda: _assemble(folder, config, [read_piece(folder, piece) for piece in pieces]))
        group.leave()
    return True


def _open(
    config: PaperConfig, folder: Path, download: bool, device: torch.device, command: str, held: ExitStack
) -> list[str] | None:
    """Hold the folder, check what is in it, and name the pieces that are left; None where nothing is left to do."""
    stored = _stored(folder, config)
    whole = [is_finished(study, folder / study_folder(study), download=download) for study in config.studies]
    if _left(config, folder):
        with user_input():
            for part in PARTS:
                part.check(config.parts[part.name], config.main)
    tables = all((folder / f"{part.name}.parquet").is_file() for part in PARTS)
    if stored is not None and not _left(config, folder) and all(whole) and tables:
        return None
    held.enter_context(alone(folder / ".lock"))
    if _stored(folder, config) is None:  # another job may have been here
        write_json(folder / "config.json", {**config.as_dict(), "command": command, "environment": environment(device)})
    remove_unfinished(folder, folder / "parts")
    return _left(config, folder)


def _left(config: PaperConfig, folder: Path) -> list[str]:
    return [piece.name for piece in pieces_of(config) if not piece_folder(folder, piece).is_dir()]


class _Part(Silent):
    """The progress of one study inside the run's."""

    def __init__(self, whole: Progress, prefix: str):
        self._whole, self._prefix = whole, prefix

    def start(self, total: float, done: float) -> None:
        self._whole.advance(done)

    def advance(self, steps: float = 1) -> None:
        self._whole.advance(steps)

    def say(self, doing: str) -> None:
        self._whole.say(self._prefix + doing)


def _study_steps(study: StudyConfig) -> int:
    units = len(study.regularizers) * len(study.seeds)
    return units * (study.recipe.epochs + len(study.attacks) + len(study.sweep.eps))


def _stored(folder: Path, config: PaperConfig) -> dict[str, Any] | None:
    """What `config.json` holds, None where there is none. Raises InputError unless it says what `config` says."""
    check_kind(folder, "paper")
    path = folder / "config.json"
    stored = read_json(path) if path.is_file() else None
    if stored is not None:
        check_same(_comparable(stored), _comparable(config.as_dict()), folder)
    return stored


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
