"""Running a study: one unit a regularizer and seed, each finished piece kept, then the tables and the page."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import regfast
from regfast.data import Splits, Subset, load_splits
from regfast.models import SplitClassifier, load_model, read_checkpoint, save_checkpoint
from regfast.ops.dispatch import find
from regfast.representation import snapshot
from regfast.study.config import StudyConfig, built, differences
from regfast.study.files import read_arrays, read_columns, read_json, write_arrays, write_json, write_table
from regfast.study.measure import measure_attack, measure_clean, measure_sweep
from regfast.study.metrics import metrics
from regfast.study.progress import Progress, Silent
from regfast.study.workers import run_all
from regfast.training import Epoch, predict, train

# Of the environment, what may move results by more than rounding: an unfinished study goes on with these alone.
_DECISIVE = ("torch", "regfast", "device")


@dataclass(frozen=True)
class Unit:
    """One regularizer with one seed, and where its pieces lie. A piece is there when its last file is."""

    regularizer: str
    seed: int
    run_dir: Path

    @property
    def name(self) -> str:
        """`hard-seed0`."""
        return f"{self.regularizer}-seed{self.seed}"

    @property
    def checkpoint(self) -> Path:
        """Written last in training."""
        return self.run_dir / "checkpoints" / f"{self.name}.safetensors"

    def part(self, table: str) -> Path:
        """This unit's part of a result file."""
        return self.run_dir / "parts" / self.name / table

    @property
    def measured(self) -> Path:
        """Written last in measuring."""
        return self.part("samples.parquet")


def run_study(
    config: StudyConfig,
    run_dir: str | Path,
    *,
    download: bool = False,
    workers: int = 1,
    device: str | torch.device = "cpu",
    command: str = "",
    progress: Progress | None = None,
) -> bool:
    """Train, attack and measure every regularizer and seed of `config`; write the result files to `run_dir`.

    What a former run in `run_dir` finished is kept: models that are trained, units that are measured. Interrupting
    (Ctrl-C, a crash) loses at most the pieces in work. Returns False when there was nothing left to do.

    `download` lets torchvision fetch a data set. `workers`: processes that share the units; more than one needs the
    caller's main module to be importable (`if __name__ == "__main__":`). Models are trained and attacked on `device`.
    `command` is noted in `config.json`.

    Raises:
        ValueError: `run_dir` holds a study with other options (all differences are named), or damaged files.
        FileNotFoundError: the data set is not where `config` says.
    """
    progress, folder = progress or Silent(), Path(run_dir)
    resolved = config.as_dict()
    stored_at = folder / "config.json"
    stored = read_json(stored_at) if stored_at.is_file() else None
    if stored is not None:
        _refuse(differences(_experiment(stored), _experiment(resolved)), folder)
    units = [Unit(name, seed, folder) for name in config.regularizers for seed in config.seeds]
    if (folder / "metrics.json").is_file() and all(unit.measured.is_file() for unit in units):
        return False
    load_splits(config.dataset, config.data_root, download=download)  # says now what is missing
    here = environment(device)
    if stored is not None:
        there = stored.get("environment", {})
        _refuse(differences({key: there.get(key) for key in _DECISIVE}, {key: here[key] for key in _DECISIVE}), folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(stored_at, {**resolved, "command": command, "environment": here})
    epochs, pieces = config.recipe.epochs, len(config.attacks) + len(config.sweep.eps)
    trained = sum(unit.checkpoint.is_file() for unit in units)
    measured = sum(unit.measured.is_file() for unit in units)
    progress.start(len(units) * (epochs + pieces), trained * epochs + measured * pieces)
    left = [unit for unit in units if not unit.measured.is_file()]
    run_all(partial(_run_unit, config, torch.device(device)), left, workers, progress)
    progress.say("tables")
    _assemble(folder, config, units)
    return True


def environment(device: str | torch.device = "cpu") -> dict[str, Any]:
    """What makes a result: versions, machine, threads, device and the backend that serves the loss there."""
    serves = find("soft_cross_entropy", "soft_cross_entropy", torch.empty(1, 1, device=device)).__module__
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "regfast": regfast.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {sys.platform}",
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device),
        "backend": serves.split(".")[2],
    }


def _experiment(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the results: epochs is left out, a copy of recipe.epochs for readers."""
    return {key: value for key, value in config.items() if key not in ("command", "environment", "epochs")}


def _refuse(different: list[str], folder: Path) -> None:
    if different:
        raise ValueError(f"{folder} holds another study ({'; '.join(different)}); choose another folder or remove it")


def _run_unit(config: StudyConfig, device: torch.device, unit: Unit, progress: Progress) -> None:
    splits = load_splits(config.dataset, config.data_root)
    channels = splits.image_shape[0]
    model = load_model(config.model, num_classes=splits.num_classes, in_channels=channels, seed=unit.seed).to(device)
    unit.part("").mkdir(parents=True, exist_ok=True)
    if unit.checkpoint.is_file():
        model.load_network_state(read_checkpoint(unit.checkpoint), unit.checkpoint)
    else:
        progress.say(f"{unit.name}: training")
        _train(unit, model, config, splits, progress)
    _measure(unit, model, config, splits, progress)


def _train(unit: Unit, model: SplitClassifier, config: StudyConfig, splits: Splits, progress: Progress) -> None:
    regularizer = built(unit.regularizer, config.regularizers[unit.regularizer])

    # Spread over all of them, for a training set may be sorted by class.
    count = min(config.trajectory, len(splits.train))
    watched = Subset(splits.train, torch.linspace(0, len(splits.train) - 1, count).long())
    moments: list[dict[str, Any]] = []

    def on_epoch(epoch: Epoch) -> None:
        if config.trajectory:
            features, _, labels = predict(model, watched)
            found = snapshot(features, model.head.weight.cpu(), _cpu(model.head.bias), labels)
            moments.append({"regularizer": unit.regularizer, "seed": unit.seed, "epoch": epoch.epoch, **found})
        progress.advance()

    history = train(model, splits.train, splits.holdout, regularizer, config.recipe, seed=unit.seed, on_epoch=on_epoch)
    rows = [{"regularizer": unit.regularizer, "seed": unit.seed, **epoch.as_dict()} for epoch in history]
    write_table(unit.part("curves.parquet"), rows)
    if moments:
        write_table(unit.part("trajectory.parquet"), moments)
    save_checkpoint(model.network_state(), unit.checkpoint)


def _measure(unit: Unit, model: SplitClassifier, config: StudyConfig, splits: Splits, progress: Progress) -> None:
    whole = splits.test
    test = whole if config.limit is None else Subset(whole, torch.arange(min(config.limit, len(whole))))
    columns, rest = measure_clean(model, test, splits.holdout)
    for setting in config.attacks:
        progress.say(f"{unit.name}: {setting.id}")
        columns |= measure_attack(model, test, setting, unit.seed)
        progress.advance()
    progress.say(f"{unit.name}: sweep over eps")
    rows = measure_sweep(model, test, config.sweep, unit.seed, progress.advance)
    identity = {"regularizer": unit.regularizer, "seed": unit.seed}
    write_table(unit.part("sweep.parquet"), [{**identity, **row} for row in rows])
    write_arrays(unit.part("model.npz"), rest)
    count = len(test)
    head = {"regularizer": np.full(count, unit.regularizer), "seed": np.full(count, unit.seed)}
    write_table(unit.measured, {**head, **columns})


def _assemble(folder: Path, config: StudyConfig, units: list[Unit]) -> None:
    """Result files from the units' parts; metrics.json last, since it says that the study is finished."""
    tables = ["samples.parquet", "sweep.parquet", "curves.parquet"]
    for table in tables + ["trajectory.parquet"] * bool(config.trajectory):
        parts = [read_columns(unit.part(table)) for unit in units]
        write_table(folder / table, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    found: dict[str, Any] = {}
    for name in config.regularizers:
        own = [unit for unit in units if unit.regularizer == name]
        samples = [_numeric(read_columns(unit.measured)) for unit in own]
        models = [read_arrays(unit.part("model.npz")) for unit in own]
        found[name] = metrics(samples, models, [attack.id for attack in config.attacks])
    temperature = {name: figures["temperature"] for name, figures in found.items()}
    write_json(folder / "metrics.json", {"regularizers": found, "temperature": temperature})


def _cpu(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.cpu()


def _numeric(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in columns.items() if name != "regularizer"}
