"""Measuring networks: the same program on one process and under torchrun, resumable at any moment."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from regfast.data.images import some
from regfast.evaluation.identity import data_fingerprint
from regfast.measurement.config import VERSION, MeasureConfig, sized_measurement
from regfast.measurement.images import Images, check_images, divide, for_all, open_images
from regfast.measurement.networks import Network, given_networks
from regfast.measurement.pieces import JoinPiece, LookPiece, PartPiece, Task, logits_of, look_pieces, part_pieces
from regfast.runs.errors import InputError
from regfast.runs.files import (
    REMEDY,
    make_folder,
    read_columns,
    read_joined,
    read_json,
    remove_unfinished,
    write_joined,
    write_json,
    write_table,
)
from regfast.runs.folder import alone, check_kind, check_same
from regfast.runs.group import WorkerGroup, agree, join
from regfast.runs.progress import Line, Silent, time_left
from regfast.study.metrics import write_metrics
from regfast.study.run import check_environment, environment

_TRAIN = 20_000  # training images at most that class means are taken from

Piece = LookPiece | JoinPiece | PartPiece


@dataclass(frozen=True)
class MeasureResult:
    """A finished measurement.

    Attributes:
        folder: where its result files lie (docs/reference/files.md); `regfast.report.write_report` makes the page.
        metrics: per network every figure with its 95 % interval, as in `metrics.json`.
        did: whether this call finished it; False where there was nothing left to do.
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)
    did: bool = True

    def samples(self) -> dict[str, Any]:
        """The columns of `samples.parquet`: one row an image, network and seed."""
        return read_columns(self.folder / "samples.parquet")


def measure(
    networks: Mapping[str, Any],
    dataset: Any,
    *,
    out: str | Path,
    train: Any = None,
    size: str = "full",
    reference: str | None = None,
    data_root: str | Path | None = None,
    some_classes: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    **options: Any,
) -> MeasureResult:
    """Measure trained networks: geometry, calibration, robustness, and every part of the paper that trains nothing.

    In a notebook this is one process; under torchrun every rank calls it with the same arguments and they share the
    work. The result files do not depend on the number of workers. A run that was interrupted or killed goes on when it
    is called again, and a finished one returns at once.

    Args:
        networks: name to a `torch.nn.Module` with a linear head, or to several of one kind, which are its seeds. They
            take images (B, C, H, W) in [0, 1]. The first is what the others are compared with.
        dataset: name of a data set, a map-style data set of (image, label), images in [0, 1] or uint8; or a mapping of
            the networks' names to one each, the same images in the same order, where their preprocessing differs.
        out: folder of the run; it must be new, or hold the same run.
        train: training images in the same form, for class means and neural collapse; left out without.
        size: "full", "small" or "smoke", see `sized_measurement`.
        reference: the network that the others are compared with; the first by default.
        data_root: folder or file that holds a data set given by name.
        some_classes: the data may lack some of the networks' classes.
        device: of this worker; its GPU by default, else the CPU.
        progress: one line on standard error for the whole job.
        options: fields of `MeasureConfig`: limit, attacked, holdout, attacks, …

    Raises:
        InputError: a network without a linear head, that takes other images or tells another number of classes apart;
            names what is wrong and what to do, before anything is computed.
        OtherRun: `out` holds a run of another kind, configuration or data; says what differs.
        RunStopped: a file could not be written, another job holds the folder, or another worker was lost.

    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    >>> found = regfast.measure({"mine": net}, "digits", out=tmp_path / "run", size="smoke", progress=False)
    >>> 0 <= found.metrics["mine"]["accuracy"]["mean"] <= 1
    True
    """
    named = isinstance(dataset, str)
    if named:
        opened = given_networks(networks)
        images = open_images(dataset, None if data_root is None else Path(data_root), opened)
    else:
        of = for_all("dataset", dataset, list(networks))
        opened = given_networks(networks, {name: own[0][0][None] for name, own in of.items()})
        images = Images(type(dataset).__name__, of, {})
    if train is not None:
        images = replace(images, train=for_all("train", train, list(networks)))
    config = sized_measurement(size, dataset if named else None, classes=opened[0].num_classes, **options)
    return run_measure(
        opened, images, config, out, reference=reference, some_classes=some_classes, device=device, progress=progress
    )


def run_measure(
    networks: Sequence[Network],
    images: Images,
    config: MeasureConfig,
    out: str | Path,
    *,
    reference: str | None = None,
    some_classes: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    command: str = "",
) -> MeasureResult:
    """As `measure`, of what is opened and resolved already. `command` is noted in `config.json`."""
    folder, names = Path(out), [network.name for network in networks]
    if reference not in (None, *names):
        raise InputError(f"reference {reference!r} is none of the networks, which are {', '.join(names)}")
    check_images(images, networks, some_classes)
    division = divide(images.labels, config.limit, config.attacked, config.holdout)
    if not images.train:
        parts = {name: settings for name, settings in config.parts.items() if name != "collapse"}
        config = replace(config, parts=parts)
    few = {id(own): some(own, _TRAIN) for own in images.train.values()}
    images = replace(images, train={name: few[id(own)] for name, own in images.train.items()})
    workers = join(device)
    task = Task(networks, images, division, config, folder, workers.device)
    picked = torch.cat([division.measured, division.holdout]).sort().values.tolist()
    wanted = {
        "kind": "measure",
        "version": VERSION,
        "dataset": images.name,
        "data_root": images.root,
        "model": " and ".join(dict.fromkeys(network.model for network in networks)),
        "reference": reference or names[0],
        "regularizers": {
            network.name: {**network.as_dict(), "preprocess": getattr(images.of[network.name], "preprocess", None)}
            for network in networks
        },
        "seeds": list(range(len(networks[0].members))),
        "classes": networks[0].num_classes,
        "images": {what: len(ids) for what, ids in division._asdict().items()},
        **config.as_dict(),
        "data": {name: data_fingerprint(own, picked) for name, own in _different(images.of).items()},
        "train": {name: data_fingerprint(own) for name, own in _different(images.train).items()},
    }
    wanted = json.loads(json.dumps(wanted))
    here = environment(workers.device)
    with contextlib.ExitStack() as held:
        held.enter_context(workers.watched())
        did = not agree(workers, lambda: _finished(folder, wanted, task))
        if did:
            agree(workers, lambda: _open(task, wanted, {"command": command, "environment": here}, held))
            units = task.units
            looks: list[Piece] = [
                piece
                for held_out in (False, True)
                for unit in units
                for piece in look_pieces(task, *unit, held=held_out)
            ]
            joins: list[Piece] = [JoinPiece(*unit) for unit in units]
            parts_: list[Piece] = [*part_pieces(task)]
            for stage, pieces in (("images", looks), ("class centers", joins), ("parts of the paper", parts_)):
                _work(stage, pieces, task, workers, progress)
            agree(workers, lambda: _close(task))
        workers.leave()
    return MeasureResult(folder, read_json(folder / "metrics.json", REMEDY)["regularizers"], did)


def _different(images: Mapping[str, Any]) -> dict[str, Any]:
    """The data sets by the first network that has each."""
    found: dict[int, tuple[str, Any]] = {}
    for name, own in images.items():
        found.setdefault(id(own), (name, own))
    return dict(found.values())


def _finished(folder: Path, wanted: Mapping[str, Any], task: Task) -> bool:
    """Whether the run in the folder is the same one and whole; nothing is written."""
    check_kind(folder, "measure")
    if not (folder / "config.json").is_file():
        return False
    check_same(_experiment(read_json(folder / "config.json")), wanted, folder)
    tables = ["samples", "sweep", *(part.name for part in task.parts)]
    whole = all((folder / f"{name}.parquet").is_file() for name in tables)
    return whole and (folder / "metrics.json").is_file() and bool(read_json(folder / "metrics.json", REMEDY))


def _experiment(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key not in ("command", "environment")}


def _open(task: Task, wanted: dict[str, Any], facts: dict[str, Any], held: contextlib.ExitStack) -> None:
    """Hold the folder against other jobs, check what is in it, and say what this run is."""
    folder = task.folder
    held.enter_context(alone(folder / ".lock"))
    path = folder / "config.json"
    if path.is_file():
        stored = read_json(path)
        check_same(_experiment(stored), wanted, folder)  # once more: another job may have been here
        check_environment(stored, facts["environment"], folder)
    else:
        write_json(path, {**wanted, **facts})
    for unit in task.units:
        make_folder(task.unit(*unit))
    remove_unfinished(folder, *(task.unit(*unit) for unit in task.units))


def _work(stage: str, pieces: Sequence[Piece], task: Task, workers: WorkerGroup, show: bool) -> None:
    """Draw pieces until none is left, the longest first; return when all workers have finished theirs."""
    costs = agree(workers, lambda: [piece.cost(task) for piece in pieces])
    left = sorted((k for k, cost in enumerate(costs) if cost), key=lambda k: -costs[k])
    with _Shared(workers, stage, sum(costs), show and bool(left)) as progress:
        for place in workers.share(left, stage):
            pieces[place].run(task, progress)


class _Shared(Silent):
    """The progress of all workers in one stage, shown by the leading one."""

    def __init__(self, workers: WorkerGroup, stage: str, total: float, show: bool) -> None:
        self._workers, self._stage, self._total = workers, stage, total
        self._doing, self._rest, self._started = "", 0.0, time.monotonic()
        self._line = Line(self._state, show=show and workers.leads)

    def __enter__(self) -> _Shared:
        self._line.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._line.__exit__(*error)

    def advance(self, steps: float = 1) -> None:
        """`steps` more are done."""
        self._rest += steps * 100
        whole = int(self._rest)
        self._rest -= whole
        if whole:
            self._workers.count(f"hundredths {self._stage}", whole)

    def say(self, doing: str) -> None:
        """What is being done now."""
        self._doing = doing

    def _state(self) -> tuple[float, str]:
        done = self._workers.count(f"hundredths {self._stage}") / 100
        share = done / self._total if self._total else 1.0
        left = time_left(self._started, done, max(self._total - done, 0.0))
        return share, f"{self._stage} {share:.0%} · {self._doing or 'preparing'} · {left}"


def _close(task: Task) -> None:
    """Result files from the pieces; metrics.json last, since it says that the measurement is finished."""
    folder = task.folder
    for table in ("samples.parquet", "sweep.parquet"):
        write_joined(folder / table, [task.unit(*unit) / table for unit in task.units])
    for part in task.parts:
        own = [piece.files(task)["table"] for piece in part_pieces(task) if piece.part == part.name]
        write_table(folder / f"{part.name}.parquet", part.combined(read_joined(own)))
    units = {n.name: [task.unit(n.name, seed) for seed in range(len(n.members))] for n in task.networks}
    logits = {name: [partial(logits_of, task, name, seed) for seed in range(len(own))] for name, own in units.items()}
    write_metrics(folder, units, [attack.id for attack in task.config.attacks], logits)
