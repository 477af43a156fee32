"""One chunk of samples through the clean pass and every attack: the rows that go to the store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from regfast.attacks import PreparedModel
from regfast.attacks.base import AttackResult, Runnable
from regfast.attacks.evaluate import last_stages
from regfast.attacks.losses import predicted
from regfast.attacks.memory import in_parts
from regfast.attacks.prepare import frozen
from regfast.attacks.prepared import classifier_of
from regfast.evaluation.samples import LoadedChunk
from regfast.evaluation.store import SCHEMA
from regfast.evaluation.targets import TARGETS, target_classes
from regfast.evaluation.within import Within
from regfast.runs.errors import InputError

__all__ = ["ChunkRows", "Settings", "attack_chunk", "clean_logits", "count_classes", "group_by_eps"]

Model = Callable[[Tensor], Tensor]

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Settings:
    """How the attacks are run; none of it but `seed` and `precision` decides a row."""

    device: torch.device
    seed: int = 0
    lanes: int | None = None
    precision: str = "float32"
    compile: bool = False
    cuda_graphs: bool | None = False
    save_images: bool = False
    target: int | str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.lanes is not None and (not isinstance(self.lanes, int) or self.lanes < 1):
            raise InputError(f"lanes must be an integer of at least 1, got {self.lanes!r}")
        if self.target not in (None, *TARGETS) and not (isinstance(self.target, int) and self.target >= 0):
            raise InputError(f"target must be a class number or one of {', '.join(TARGETS)}, got {self.target!r}")

    def prepare(self, model: Model, example: Tensor) -> PreparedModel:
        """`model` made ready once for all chunks, attacks and eps."""
        return PreparedModel(
            model, example.to(self.device), precision=self.precision, compile=self.compile, cuda_graphs=self.cuda_graphs
        )


@dataclass
class ChunkRows:
    """What one chunk gave: rows for the store, adversarial images by attack, and counts for the progress line."""

    rows: pa.Table
    images: dict[str, Tensor] = field(default_factory=dict)
    usable: int = 0
    robust: int = 0  # under the last attack at its largest eps
    evaluations: int = 0


def group_by_eps(attacks: Sequence[Runnable]) -> list[list[Runnable]]:
    """Attacks that differ in eps alone, together and by rising eps; groups in the order given.

    Raises:
        InputError: for an attack without eps, and for one given twice.
    """
    groups: dict[str, list[Runnable]] = {}
    for attack in attacks:
        if attack.options.get("eps") is None:
            raise InputError(
                f"{attack.name} has no eps, and a robust accuracy is measured at one: give it (eps=8/255, several in "
                "--eps), or find nearest adversarial points with attack.run and robust_accuracy_curve (regfast attack)"
            )
        if isinstance(attack.eps, torch.Tensor):
            raise InputError(f"{attack.name} has several radii: a robust accuracy is measured at one eps")
        groups.setdefault(repr(attack.at(0.0)), []).append(attack)
    for group in groups.values():
        group.sort(key=lambda attack: attack.eps or 0.0)
        for one, other in itertools.pairwise(group):
            if one.eps == other.eps:
                raise InputError(f"{one!r} is given twice")
    return list(groups.values())


def clean_logits(model: Model, images: Tensor, device: torch.device, batch: int) -> Tensor:
    """(n, K) float32 logits of images (n, C, H, W), on `device`, `batch` at a time (less where memory runs out)."""
    ask = classifier_of(model, images[:1].to(device))
    with frozen(model), torch.no_grad():
        return torch.cat(in_parts(lambda part: ask(part.to(device)).float(), images, batch))


def count_classes(model: Model, shape: tuple[int, ...], device: torch.device) -> int:
    """K, from the model's answer to one gray image of `shape` (C, H, W).

    Raises InputError if it takes no such image, or answers with something other than logits (1, K).
    """
    try:
        return clean_logits(model, torch.full((1, *shape), 0.5), device, 1).shape[1]
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # an exported program's guards assert
        raise InputError(f"the model takes no image of shape {shape}: {str(error).splitlines()[0]}") from error


def attack_chunk(
    model: PreparedModel | None,
    chunk: LoadedChunk,
    groups: Sequence[Sequence[Runnable]],
    labels_of: Sequence[str],
    settings: Settings,
    within: Callable[[float], None] = lambda samples: None,
) -> ChunkRows:
    """Attack one chunk.

    All attacks and eps share one clean pass. Within a group (one attack, rising eps) a sample that fell is carried: it
    counts as broken at every larger eps and is not attacked again.

    Args:
        model: as `settings.prepare` makes it; None will do for a chunk without a usable sample.
        chunk: its samples.
        groups: as `group_by_eps` makes them.
        labels_of: name of each group in the rows.
        settings: how to run.
        within: told how many samples of the chunk are done, by and large, while the attacks run.
    """
    if isinstance(settings.target, int):
        chunk = chunk.without(chunk.labels == settings.target, "its label is the target")
    usable = chunk.usable
    labels, samples = chunk.labels[usable], chunk.samples[usable]
    made = ChunkRows(SCHEMA.empty_table(), usable=int(usable.sum()))
    tables = []
    if made.usable:
        assert model is not None
        answers = max(stage.samples for group in groups for attack in group for stage in attack.stages())
        logits = model.clean_logits(chunk.images, settings.lanes or model.lanes, answers if model.random else 1)
        clean_prediction = predicted(logits)
        targets = None
        if settings.target is not None:
            targets = target_classes(settings.target, labels, samples, logits, settings.seed)
        correct = clean_prediction == labels
        watch = Within(groups, len(chunk.samples), int(correct.sum()), within)
        made.evaluations += made.usable
    for group, name in zip(groups, labels_of, strict=True):
        if made.usable:
            outcome = _Outcome(labels, clean_prediction, correct)
        for attack in group:
            if made.usable and model is not None:
                alive = outcome.robust.nonzero().squeeze(1)
                result = None
                if len(alive):
                    watch.enter(attack)
                    result = attack.run(
                        model,
                        chunk.images[alive],
                        labels[alive],
                        sample_ids=samples[alive],
                        clean_logits=logits[alive],
                        seed=settings.seed,
                        lanes=settings.lanes,
                        targets=None if targets is None else targets[alive],
                        progress=watch,
                    )
                    made.evaluations += int(result.gradients.sum() + result.queries.sum())
                outcome.take(alive, result, last_stages(attack.stages()))
                if settings.save_images and result is not None:
                    key = f"{name} {attack.norm.name} {attack.eps:.6g}"
                    made.images[key] = result.images.cpu()
                    made.images[f"{key} samples"] = samples[alive]
                made.robust = int(outcome.robust.sum())
            tables.append(_table(chunk, usable, attack, name, outcome if made.usable else None))
    made.rows = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    return made


class _Outcome:
    """Per usable sample, where it stands after the eps tried so far."""

    def __init__(self, labels: Tensor, clean_prediction: Tensor, correct: Tensor) -> None:
        n = len(labels)
        self.clean_prediction, self.correct = clean_prediction, correct
        self.prediction = clean_prediction.clone()
        self.robust = correct.clone()
        self.success = torch.zeros(n, dtype=torch.bool)
        self.carried = torch.zeros(n, dtype=torch.bool)
        self.stage = ["" if right else "clean" for right in correct.tolist()]
        self.late = torch.zeros(n, dtype=torch.bool)
        self.gradients = torch.zeros(n, dtype=torch.int64)
        self.queries = torch.zeros(n, dtype=torch.int64)
        self.distance = torch.zeros(n)
        self.loss = torch.full((n,), torch.nan)

    def take(self, alive: Tensor, result: AttackResult | None, last: Collection[str]) -> None:
        """The outcome of the next larger eps, tried on the samples `alive` (M,) int64; `last`: its last stages."""
        self.carried = self.success.clone()
        self.gradients.zero_()
        self.queries.zero_()
        if result is None:
            return
        self.prediction[alive] = result.prediction.cpu()
        self.success[alive] = result.success.cpu()
        self.robust[alive] = result.robust.cpu()
        self.gradients[alive] = result.gradients.cpu()
        self.queries[alive] = result.queries.cpu()
        self.distance[alive] = result.distance.cpu().float()
        self.loss[alive] = result.loss.cpu().float()
        for index, stage, late in zip(alive.tolist(), result.stage, result.late.tolist(), strict=True):
            self.stage[index], self.late[index] = stage, late and stage in last


def _table(chunk: LoadedChunk, usable: Tensor, attack: Runnable, name: str, outcome: _Outcome | None) -> pa.Table:
    n = len(chunk.samples)

    def spread(name: str, missing: Any) -> list[Any]:
        whole = [missing] * n
        if outcome is not None:
            values = getattr(outcome, name).tolist()
            for index, value in zip(usable.nonzero().squeeze(1).tolist(), values, strict=True):
                whole[index] = None if value != value else value  # NaN: not known
        return whole

    stages = iter(outcome.stage if outcome else ())
    return pa.table(
        {
            "sample": chunk.samples.tolist(),
            "label": chunk.labels.tolist(),
            "attack": [name] * n,
            "norm": [attack.norm.name] * n,
            "eps": [attack.eps] * n,
            "status": chunk.status,
            "pixels": chunk.pixels,
            "clean_prediction": spread("clean_prediction", -1),
            "prediction": spread("prediction", -1),
            "correct": spread("correct", False),
            "success": spread("success", False),
            "robust": spread("robust", False),
            "carried": spread("carried", False),
            "stage": [next(stages) if here else "" for here in usable.tolist()],
            "late": spread("late", False),
            "gradients": spread("gradients", 0),
            "queries": spread("queries", 0),
            "distance": spread("distance", None),
            "loss": spread("loss", None),
        },
        schema=SCHEMA,
    )
