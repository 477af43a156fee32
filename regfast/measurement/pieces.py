"""The pieces of a measurement: each is computed alone, by any worker, and kept when it is whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regfast.data import ImageArray, ImageSet, Subset
from regfast.evaluation.within import stage_cost
from regfast.measurement.config import MeasureConfig, measured_parts
from regfast.measurement.images import Division, Images
from regfast.measurement.networks import Network
from regfast.models import SplitClassifier
from regfast.paper.outputs import Outputs
from regfast.paper.parts import Part, Work
from regfast.paper.parts.base import Array, Columns, named_columns
from regfast.representation import default_radius
from regfast.runs.files import make_folder, read_arrays, read_columns, write_arrays, write_table
from regfast.runs.progress import Progress, Silent, Step
from regfast.study.measure import (
    centers_at,
    clean_columns,
    joined_sweeps,
    measure_attack,
    measure_sweep,
    model_figures,
)
from regfast.training import predict

CHUNK = 512  # images that a worker takes at once; what a killed one loses is less: an attack on them
_ATTACKED = 1000  # images at most that the parts which attack attack once more


@dataclass(frozen=True)
class Task:
    """Everything that is fixed before the pieces: what is measured, on what, and where it goes."""

    networks: Sequence[Network]
    images: Images
    division: Division
    config: MeasureConfig
    folder: Path
    device: torch.device

    def network(self, name: str) -> Network:
        """The network of this name."""
        return next(network for network in self.networks if network.name == name)

    def model(self, name: str, seed: int) -> SplitClassifier:
        """One training of a network, on the device."""
        return self.network(name).members[seed].to(self.device)

    def unit(self, name: str, seed: int) -> Path:
        """The folder of what is about one training of a network."""
        return self.folder / "parts" / f"{name}-seed{seed}"

    @property
    def units(self) -> list[tuple[str, int]]:
        """Every network and seed, in the order of the result files."""
        return [(network.name, seed) for network in self.networks for seed in range(len(network.members))]

    @cached_property
    def parts(self) -> list[Part]:
        """The parts of the paper that are computed."""
        return [part for part in measured_parts() if part.name in self.config.parts]


def chunks(samples: Tensor) -> list[Tensor]:
    """`samples` as they are worked on."""
    return list(samples.split(CHUNK))


@dataclass(frozen=True)
class LookPiece:
    """Some images through one network: clean, under every attack, and over the sweep."""

    name: str
    seed: int
    place: int
    held: bool  # of the held-out images

    def samples(self, task: Task) -> Tensor:
        """Ids of its images, those that are attacked first."""
        return chunks(task.division.holdout if self.held else task.division.measured)[self.place]

    def attacked(self, task: Task) -> Tensor:
        """Ids of those that are attacked."""
        if self.held:
            return self.samples(task)[:0]
        start = self.place * CHUNK
        return task.division.attacked[start : start + CHUNK]

    def files(self, task: Task) -> dict[str, Path]:
        """What it writes: `clean`, then by attack id, then `sweep`."""
        folder, end = task.unit(self.name, self.seed), f"{self.place:05}"
        if self.held:
            return {"clean": folder / f"holdout-{end}.npz"}
        found = {"clean": folder / f"clean-{end}.npz"}
        if len(self.attacked(task)):
            ids = [*(attack.id for attack in task.config.attacks), "sweep"]
            found |= {id_: folder / f"{id_}-{end}.parquet" for id_ in ids}
        return found

    def cost(self, task: Task) -> float:
        """Of what is not there yet, in gradients of an image that no attack fools."""
        return sum(self._costs(task)[what] for what, path in self.files(task).items() if not path.is_file())

    def _costs(self, task: Task) -> dict[str, float]:
        config, hit = task.config, len(self.attacked(task))
        costs = {a.id: hit * sum(map(stage_cost, a.build().stages())) for a in config.attacks}
        sweep = hit * len(config.sweep.eps) * (config.sweep.steps + 1.0)
        return {"clean": len(self.samples(task)) / 3, **costs, "sweep": sweep}

    def run(self, task: Task, progress: Progress) -> None:
        """Write what is not there yet."""
        left = {what: path for what, path in self.files(task).items() if not path.is_file()}
        if not left:
            return
        model, costs = task.model(self.name, self.seed), self._costs(task)
        attacked, own, seed = self.attacked(task), task.images.of[self.name], task.config.seed
        hit: ImageSet | None = None  # read once for all attacks
        for what, path in left.items():
            step = Step(_Scaled(progress, costs[what]))
            progress.say(
                f"{self.name}{f' seed {self.seed}' if len(task.network(self.name).members) > 1 else ''}: {what}"
            )
            if what == "clean":
                features, logits, _ = predict(model, Subset(own, self.samples(task)))
                write_arrays(path, {"features": features.numpy(), "logits": logits.numpy()})
                step.finish()
                continue
            if hit is None:
                hit = ImageArray(own.batch(attacked), own.labels[attacked], own.classes, f"network {self.name}")
            if what == "sweep":
                rows = measure_sweep(model, hit, task.config.sweep, seed, lambda: None, samples=attacked)
                write_table(path, rows)
            else:
                setting = next(attack for attack in task.config.attacks if attack.id == what)
                columns = measure_attack(model, hit, setting, seed, step.reach, samples=attacked)
                write_table(path, {"sample": attacked.numpy(), **columns})
            step.finish()


class _Scaled(Silent):
    """Steps of a `Progress` that cost more than one."""

    def __init__(self, progress: Progress, cost: float):
        self._progress, self._cost = progress, cost

    def advance(self, steps: float = 1) -> None:
        """`steps` more are done."""
        self._progress.advance(steps * self._cost)

    def say(self, doing: str) -> None:
        """What is being done now."""
        self._progress.say(doing)


@dataclass(frozen=True)
class JoinPiece:
    """One training of a network: its class centers, and its rows of the result files."""

    name: str
    seed: int

    def files(self, task: Task) -> dict[str, Path]:
        """What it writes, `samples.parquet` last."""
        folder = task.unit(self.name, self.seed)
        return {what: folder / what for what in ("sweep.parquet", "model.npz", "samples.parquet")}

    def cost(self, task: Task) -> float:
        """One."""
        return 0.0 if self.files(task)["samples.parquet"].is_file() else 1.0

    def run(self, task: Task, progress: Progress) -> None:
        """Read the chunks one by one, into arrays made before: small ones kept between large ones fragment the heap."""
        files = self.files(task)
        if files["samples.parquet"].is_file():
            return
        progress.say(f"{self.name}: class centers and geometry")
        model, labels = task.model(self.name, self.seed), task.images.labels
        count = len(task.division.measured)
        norms, right = torch.empty(count, 1, dtype=torch.float64), torch.empty(count, dtype=torch.bool)
        for rows, (samples, clean) in zip(places(task), clean_chunks(task, self.name, self.seed), strict=True):
            norms[rows, 0] = clean["features"].double().norm(dim=1)
            right[rows] = clean["logits"].argmax(1) == labels[samples]
        centers = centers_at(model, default_radius(norms, right))
        columns: dict[str, Array] = {}
        for rows, (samples, clean) in zip(places(task), clean_chunks(task, self.name, self.seed), strict=True):
            found = clean_columns(model, centers, samples, clean["features"], clean["logits"], labels[samples])
            columns = columns or {name: np.empty(count, values.dtype) for name, values in found.items()}
            for name, values in found.items():
                columns[name][rows.numpy()] = values
        held = [clean["logits"] for _, clean in clean_chunks(task, self.name, self.seed, held=True)]
        figures = model_figures(centers, torch.cat(held), labels[task.division.holdout])
        identity: dict[str, Any] = {"regularizer": self.name, "seed": self.seed}
        looks = [piece for piece in look_pieces(task, self.name, self.seed) if len(piece.attacked(task))]
        swept = [read_columns(piece.files(task)["sweep"]) for piece in looks]
        write_table(files["sweep.parquet"], [{**identity, **row} for row in joined_sweeps(swept)])
        write_arrays(files["model.npz"], figures)
        columns |= attack_columns(task, looks, columns["sample"])
        write_table(files["samples.parquet"], named_columns(columns, identity))
        progress.advance()


def attack_columns(task: Task, looks: Sequence[LookPiece], samples: Array) -> dict[str, Array]:
    """Columns of the attacks for the images `samples` (n,), ascending; nothing of those that were not attacked."""
    found = {"attacked": np.isin(samples, task.division.attacked.numpy())}
    for attack in task.config.attacks:
        parts = [read_columns(piece.files(task)[attack.id]) for piece in looks]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        rows = np.searchsorted(samples, joined.pop("sample"))
        for name, values in joined.items():
            nothing = False if values.dtype == bool else np.nan
            found[name] = np.full(len(samples), nothing, dtype=values.dtype)
            found[name][rows] = values
    return found


def clean_chunks(
    task: Task, name: str, seed: int, *, held: bool = False, limit: int | None = None
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Ids of images with their `features` (n, d) and `logits` (n, K), a chunk at a time; the first `limit` of all."""
    left = limit
    for piece in look_pieces(task, name, seed, held=held):
        if left is not None and left <= 0:
            return
        stored = read_arrays(piece.files(task)["clean"])
        samples = piece.samples(task)[:left]
        yield samples, {what: torch.from_numpy(values[: len(samples)]) for what, values in stored.items()}
        left = None if left is None else left - len(samples)


def places(task: Task) -> list[Tensor]:
    """Rows of samples.parquet, which is in the order of the ids, of the measured images, a chunk at a time."""
    return chunks(task.division.measured.argsort().argsort())


def logits_of(task: Task, name: str, seed: int) -> Iterator[tuple[Array, Array]]:
    """Rows of samples.parquet (n,) with their logits (n, K), a chunk at a time."""
    for rows, piece in zip(places(task), look_pieces(task, name, seed), strict=True):
        yield rows.numpy(), read_arrays(piece.files(task)["clean"], ["logits"])["logits"]


def look_pieces(task: Task, name: str, seed: int, *, held: bool = False) -> list[LookPiece]:
    """The images of one training of a network, in the order of `Division`."""
    whole = task.division.holdout if held else task.division.measured
    return [LookPiece(name, seed, place, held) for place in range(len(chunks(whole)))]


@dataclass(frozen=True)
class PartPiece:
    """What one part of the paper computes of one network, of the networks of one seed, or of no network."""

    part: str
    call: str  # of_run, of_model, of_measured, of_seed
    name: str = ""
    seed: int = 0

    def files(self, task: Task) -> dict[str, Path]:
        """Its table."""
        folder = task.unit(self.name, self.seed) if self.name else task.folder / "parts" / f"pairs-seed{self.seed}"
        folder = folder if self.call != "of_run" else task.folder / "parts" / "heads"
        return {"table": folder / f"part-{self.part}.parquet"}

    def cost(self, task: Task) -> float:
        """One."""
        return 0.0 if self.files(task)["table"].is_file() else 1.0

    def run(self, task: Task, progress: Progress) -> None:
        """Compute and write it."""
        path = self.files(task)["table"]
        if path.is_file():
            return
        progress.say(f"{self.name or 'all networks'}: {self.part}")
        part = next(each for each in task.parts if each.name == self.part)
        whose: dict[str, Any] = {}
        inputs: list[Any] = []
        if self.call == "of_seed":
            whose = {"seed": self.seed}
            inputs = [{network.name: outputs_of(task, network.name, self.seed, part) for network in task.networks}]
        elif self.call != "of_run":
            whose = {"regularizer": self.name, "seed": self.seed}
            inputs = [outputs_of(task, self.name, self.seed, part)]
        work = Work(
            task.config.parts[self.part], task.config, task.images.train.get(self.name), task.networks[0].num_classes,
            task.device, lambda: None, self.name, self.seed, False,
            task.unit(self.name, self.seed) / "samples.parquet",
        )  # fmt: skip
        found: Columns = getattr(part, self.call)(work, *inputs)
        make_folder(path.parent)
        write_table(path, named_columns(found, whose) if part.named else found)
        progress.advance()


def part_pieces(task: Task) -> list[PartPiece]:
    """Those of every part, in the order of the rows."""
    found = []
    for part in task.parts:
        if part.has("of_run"):
            found.append(PartPiece(part.name, "of_run"))
        call = next(filter(part.has, ("of_model", "of_measured")), None)
        if call is not None:
            found += [PartPiece(part.name, call, *unit) for unit in task.units]
        if part.has("of_seed"):
            found += [PartPiece(part.name, "of_seed", seed=seed) for seed in range(len(task.networks[0].members))]
    return found


def outputs_of(task: Task, name: str, seed: int, part: Part) -> Outputs:
    """What `part` gets of one training of a network: the images that it may look at, or attack."""
    count = min(len(task.division.attacked), _ATTACKED) if part.attacks else task.config.part_images
    pieces = list(clean_chunks(task, name, seed, limit=count))
    samples = torch.cat([samples for samples, _ in pieces])
    features, logits = (torch.cat([clean[what] for _, clean in pieces]) for what in ("features", "logits"))
    images = Subset(task.images.of[name], samples)
    return Outputs(task.model(name, seed), images, features, logits, images.labels, samples)
