"""Running a paper: its studies, then the pieces beside them, then the result files of docs/design.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from regfast.paper.config import PaperConfig, study_folder
from regfast.paper.pieces import Tables, piece_folder, pieces_of, read_piece, run_piece
from regfast.study import Progress, StudyConfig, run_study
from regfast.study.config import differences
from regfast.study.files import read_columns, read_json, write_json, write_table
from regfast.study.progress import Silent
from regfast.study.run import environment
from regfast.study.workers import run_all

TABLES = (
    "planes",
    "theorem1",
    "scaling",
    "smooth",
    "radius",
    "predictors",
    "boundary",
    "feature_attack",
    "counterfactual",
    "collapse",
    "transfer",
    "objectives",
)


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
    if did or left or not all((folder / f"{name}.parquet").is_file() for name in TABLES):
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


def _assemble(folder: Path, config: PaperConfig, parts: list[Tables]) -> None:
    """One result file a table from the pieces' parts; the trajectories are the main study's."""
    parts = [*parts, {"collapse": read_columns(folder / study_folder(config.main) / "trajectory.parquet")}]
    for name in TABLES:
        own = [part[name] for part in parts if name in part]
        table = {column: np.concatenate([part[column] for part in own]) for column in own[0]}
        write_table(folder / f"{name}.parquet", _over_seeds(table) if name == "predictors" else table)


def _over_seeds(table: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Rows of predictors.parquet: value and interval as means over the seeds' own.

    The mean of the ends is wider than the interval of the mean: the same test images are in every seed.
    """
    keys = ("regularizer", "attack", "predictor", "measure")
    names = list(zip(*(table[key].tolist() for key in keys), strict=True))
    unique = list(dict.fromkeys(names))
    group = np.array([unique.index(name) for name in names])
    found = {key: np.array([name[place] for name in unique]) for place, key in enumerate(keys)}
    for column in ("value", "low", "high"):
        values = [table[column][group == place] for place in range(len(unique))]
        found[column] = np.array([np.nan if np.isnan(part).all() else np.nanmean(part) for part in values])
    return found
