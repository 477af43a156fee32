"""Running a study: one unit a regularizer and seed, each finished piece kept, then the tables and the page."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import regfast
from regfast.data import Splits, load_splits
from regfast.data.images import some
from regfast.evaluation.identity import data_fingerprint
from regfast.models import SplitClassifier, load_model, read_checkpoint, save_checkpoint
from regfast.ops.dispatch import find
from regfast.representation import snapshot
from regfast.runs.errors import InputError, MissingInput, user_input
from regfast.runs.files import (
    REMEDY,
    make_folder,
    read_json,
    remove_unfinished,
    write_arrays,
    write_joined,
    write_json,
    write_table,
)
from regfast.runs.folder import alone, check_kind, check_same
from regfast.runs.group import agree, join, share_all
from regfast.runs.progress import Progress, Silent, Step
from regfast.study.config import StudyConfig, built
from regfast.study.measure import measure_attack, measure_clean, measure_sweep
from regfast.study.metrics import write_metrics
from regfast.training import Epoch, Recipe, SavedState, predict, train

# Of the environment, what may move results by more than rounding: an unfinished study goes on with these alone.
DECISIVE = ("torch", "regfast", "device")


@dataclass(frozen=True)
class Unit:
    """One regularizer with one seed, and where its pieces lie."""

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

    @property
    def state(self) -> SavedState:
        """Of a training that is not over."""
        return SavedState(self.run_dir / "checkpoints" / f"{self.name}.resume.pt")

    @property
    def samples(self) -> Path:
        """Written last in measuring."""
        return self.part("samples.parquet")

    def part(self, table: str) -> Path:
        """This unit's part of a result file."""
        return self.run_dir / "parts" / self.name / table

    def trained(self, config: StudyConfig) -> bool:
        """Whether all that training writes is there."""
        curves = ["curves.parquet"] + ["trajectory.parquet"] * bool(config.trajectory)
        return self.checkpoint.is_file() and all(self.part(table).is_file() for table in curves)

    def finished(self, config: StudyConfig) -> bool:
        """Whether all that training and measuring write is there."""
        measured = ("sweep.parquet", "model.npz", "samples.parquet")
        return self.trained(config) and all(self.part(name).is_file() for name in measured)


def run_study(
    config: StudyConfig,
    run_dir: str | Path,
    *,
    download: bool = False,
    workers: int = 1,
    device: str | torch.device | None = "cpu",
    parallel: str = "auto",
    command: str = "",
    progress: Progress | None = None,
) -> bool:
    """Train, attack and measure every regularizer and seed of `config`; write the result files to `run_dir`.

    What a former run in `run_dir` finished is kept: models that are trained, units that are measured. Interrupting
    (Ctrl-C, a crash) loses at most the pieces in work. Returns False when there was nothing left to do.

    `download` lets torchvision fetch a data set. `workers`: processes that share the units; more than one needs the
    caller's main module to be importable (`if __name__ == "__main__":`). Under torchrun every rank calls this with the
    same arguments: with `parallel` "units" they share the units, with "ddp" they train one model after the other
    together and share what is measured; "auto" trains together what has images of 64 pixels a side or more, or more
    than five million parameters. Models are trained and attacked on `device`; None: the rank's GPU,
    else the CPU. `command` is noted in `config.json`.

    Raises:
        InputError: `run_dir` holds a run of another kind, with other options or data (all differences are named), or
            damaged files.
        RunStopped: another job is writing to `run_dir`, or a file cannot be written.
        MissingInput: the data set is not where `config` says.
    """
    if parallel not in ("auto", "units", "ddp"):
        raise InputError(f"parallel must be auto, units or ddp, got {parallel!r}")
    group = join(device)
    told, folder = (progress if group.leads else None) or Silent(), Path(run_dir)
    units = _units(config, folder)
    with ExitStack() as held:
        held.enter_context(group.watched())
        names = agree(group, lambda: _open(config, folder, download, group.device, command, held))
        if names is None:
            group.leave()
            return False
        left = [unit for unit in units if unit.name in names]
        run = partial(_run_unit, config, group.device)
        epochs, pieces = config.recipe.epochs, len(config.attacks) + len(config.sweep.eps)
        if group.leads:
            trained = sum(unit.trained(config) for unit in units)
            begun = sum(unit.state.epochs for unit in units if not unit.trained(config))
            told.start(len(units) * (epochs + pieces), trained * epochs + begun + (len(units) - len(left)) * pieces)
        if group.size > 1 and (parallel == "ddp" or (parallel == "auto" and _large(config))):
            for unit in left:
                if not unit.trained(config):
                    model, splits = _opened(config, group.device, unit)
                    _train(unit, model, config, splits, told, together=True, writes=group.leads)
            agree(group, lambda: None)  # the last one is written
        share_all(group, run, left, "units", workers, told)
        told.say("tables")
        agree(group, lambda: _assemble(folder, config, units))
        group.leave()
    return True


def _open(
    config: StudyConfig, folder: Path, download: bool, device: torch.device, command: str, held: ExitStack
) -> list[str] | None:
    """Hold the folder, check what is in it, and name the units that are left; None where nothing is left to do."""
    complete, data = _look(config, folder, download)
    if complete:
        return None
    here, units = environment(device), _units(config, folder)
    held.enter_context(alone(folder / ".lock"))
    stored = _stored(folder, config)  # once more: another job may have been here
    if stored is None:
        write_json(folder / "config.json", {**config.as_dict(), "data": data, "command": command, "environment": here})
    else:
        check_environment(stored, here, folder)
    remove_unfinished(folder, folder / "checkpoints", *(unit.part("") for unit in units))
    return [unit.name for unit in units if not unit.finished(config)]


def is_finished(config: StudyConfig, run_dir: str | Path, *, download: bool = False) -> bool:
    """Whether `run_dir` holds all of the study of `config`. Options and errors as for `run_study`."""
    return _look(config, Path(run_dir), download)[0]


def _look(config: StudyConfig, folder: Path, download: bool) -> tuple[bool, dict[str, str]]:
    """Whether the study in `folder` is complete, and fingerprints of the data as it is now; nothing is written."""
    stored = _stored(folder, config)
    complete = stored is not None and _complete(folder, config)
    try:
        with user_input():
            splits = load_splits(config.dataset, config.data_root, download=download)
            load_model(config.model, num_classes=splits.num_classes, in_channels=splits.image_shape[0])
    except MissingInput:
        if complete:
            return True, {}
        raise
    data = {part: data_fingerprint(getattr(splits, part)) for part in ("train", "holdout", "test")}
    if stored is not None and "data" in stored:
        check_same({"data": stored["data"]}, {"data": data}, folder)
    return complete, data


def _stored(folder: Path, config: StudyConfig) -> dict[str, Any] | None:
    """What `config.json` holds, None where there is none. Raises InputError unless it says what `config` says."""
    check_kind(folder, "study")
    path = folder / "config.json"
    stored = read_json(path) if path.is_file() else None
    if stored is not None:
        check_same(_experiment(stored), _experiment(config.as_dict()), folder)
    return stored


def _units(config: StudyConfig, folder: Path) -> list[Unit]:
    return [Unit(name, seed, folder) for name in config.regularizers for seed in config.seeds]


def _complete(folder: Path, config: StudyConfig) -> bool:
    """Whether every file of a finished study is there. Raises InputError where the last one is damaged."""
    there = all((folder / name).is_file() for name in ("metrics.json", *_tables(config)))
    whole = there and all(unit.finished(config) for unit in _units(config, folder))
    return whole and bool(read_json(folder / "metrics.json", REMEDY))


def _tables(config: StudyConfig) -> list[str]:
    return ["samples.parquet", "sweep.parquet", "curves.parquet"] + ["trajectory.parquet"] * bool(config.trajectory)


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


def check_environment(stored: Mapping[str, Any], here: Mapping[str, Any], folder: Path) -> None:
    """Raises OtherRun where the environment in `config.json`, `stored`, would not give the results of `here`."""
    there = stored.get("environment", {})
    check_same({key: there.get(key) for key in DECISIVE}, {key: here[key] for key in DECISIVE}, folder)


def _experiment(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the results, as the options say it: epochs is left out, a copy of recipe.epochs for readers.

    What an older run does not say of its recipe was as in `Recipe()`.
    """
    kept = {key: value for key, value in config.items() if key not in ("command", "environment", "epochs", "data")}
    return {**kept, "recipe": {**Recipe().as_dict(), **config["recipe"]}}


def _opened(config: StudyConfig, device: torch.device, unit: Unit) -> tuple[SplitClassifier, Splits]:
    """The unit's model as training begins, and the data."""
    splits = load_splits(config.dataset, config.data_root)
    channels = splits.image_shape[0]
    make_folder(unit.part(""))
    model = load_model(config.model, num_classes=splits.num_classes, in_channels=channels, seed=unit.seed)
    return model.to(device), splits


def _large(config: StudyConfig) -> bool:
    """Whether a model is worth several ranks."""
    splits = load_splits(config.dataset, config.data_root)
    model = load_model(config.model, num_classes=splits.num_classes, in_channels=splits.image_shape[0])
    return max(splits.image_shape[1:]) >= 64 or sum(parameter.numel() for parameter in model.parameters()) > 5e6


def _run_unit(config: StudyConfig, device: torch.device, unit: Unit, progress: Progress) -> None:
    model, splits = _opened(config, device, unit)
    if unit.trained(config):
        model.load_network_state(read_checkpoint(unit.checkpoint), unit.checkpoint)
        unit.state.remove()
    else:
        progress.say(f"{unit.name}: training")
        _train(unit, model, config, splits, progress)
    _measure(unit, model, config, splits, progress)


def _train(
    unit: Unit,
    model: SplitClassifier,
    config: StudyConfig,
    splits: Splits,
    progress: Progress,
    together: bool = False,
    writes: bool = True,
) -> None:
    regularizer = built(unit.regularizer, config.regularizers[unit.regularizer])

    watched = some(splits.train, config.trajectory)
    step = Step(progress)

    def on_epoch(epoch: Epoch, judged: SplitClassifier) -> dict[str, Any]:
        step.finish()
        progress.say(f"{unit.name}: {epoch}")
        if not config.trajectory:
            return {}
        features, _, labels = predict(judged, watched)
        return snapshot(features, judged.head.weight.cpu(), _cpu(judged.head.bias), labels)

    make_folder(unit.checkpoint.parent)
    history = train(
        model, splits.train, splits.holdout, regularizer, config.recipe, seed=unit.seed, state=unit.state,
        together=together, on_epoch=on_epoch, on_batch=step.reach,
    )  # fmt: skip
    if not writes:
        return
    identity = {"regularizer": unit.regularizer, "seed": unit.seed}
    write_table(unit.part("curves.parquet"), [{**identity, **epoch.as_dict()} for epoch in history])
    if config.trajectory:
        moments = [{**identity, "epoch": epoch.epoch, **epoch.noted} for epoch in history]
        write_table(unit.part("trajectory.parquet"), moments)
    save_checkpoint(model.network_state(), unit.checkpoint)
    unit.state.remove()


def _measure(unit: Unit, model: SplitClassifier, config: StudyConfig, splits: Splits, progress: Progress) -> None:
    test = splits.limited(config.limit).test
    columns, rest = measure_clean(model, test, splits.holdout)
    step = Step(progress)
    for setting in config.attacks:
        progress.say(f"{unit.name}: {setting.id}")
        columns |= measure_attack(model, test, setting, unit.seed, step.reach)
        step.finish()
    progress.say(f"{unit.name}: sweep over eps")
    rows = measure_sweep(model, test, config.sweep, unit.seed, step.finish, step.reach)
    identity = {"regularizer": unit.regularizer, "seed": unit.seed}
    write_table(unit.part("sweep.parquet"), [{**identity, **row} for row in rows])
    write_arrays(unit.part("model.npz"), rest)
    count = len(test)
    head = {"regularizer": np.full(count, unit.regularizer), "seed": np.full(count, unit.seed)}
    write_table(unit.samples, {**head, **columns})


def _assemble(folder: Path, config: StudyConfig, units: list[Unit]) -> None:
    """Result files from the units' parts; metrics.json last, since it says that the study is finished."""
    for table in _tables(config):
        write_joined(folder / table, [unit.part(table) for unit in units])
    of_name = {name: [unit.part("") for unit in units if unit.regularizer == name] for name in config.regularizers}
    write_metrics(folder, of_name, [attack.id for attack in config.attacks])


def _cpu(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.cpu()
