"""The training loop: one regularizer, one seed, and curves of loss, RMS and cosine as it goes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from regfast.attacks import Adversary
from regfast.data import ImageSet
from regfast.data.images import unit
from regfast.data.loading import Batches, for_training
from regfast.models import SplitClassifier, seeded
from regfast.representation import class_centers, default_radius, feature_geometry
from regfast.runs.errors import RunStopped
from regfast.training.augment import crop_and_flip
from regfast.training.ranks import Ranks
from regfast.training.recipe import Recipe
from regfast.training.regularizers import Context, Regularizer
from regfast.training.state import SavedState, random_state, restore_random
from regfast.training.step import Stepper

_PIXELS = 1 << 23  # values of the images that go through a network at once
_CURVE_TOLERANCE = 1e-4  # of the centers behind a curve, in nats: far below what a plot shows


@dataclass(frozen=True)
class Epoch:
    """One epoch's figures.

    `loss` is the mean training loss; `train_rms` and `train_cosine` (to the center of the larger part's class) are of
    the training batches as trained on, mixed and augmented; the others of held-out images after the epoch. `noted` is
    what `train`'s `on_epoch` gave.
    """

    epoch: int
    loss: float
    learning_rate: float
    train_rms: float
    train_cosine: float
    accuracy: float
    rms: float
    cosine: float
    cosine_in_span: float
    noted: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"epoch {self.epoch}, loss {self.loss:.3f}, held-out accuracy {self.accuracy:.3f}, RMS {self.rms:.3f}"

    def as_dict(self) -> dict[str, float]:
        """Column to value, without what was noted."""
        return {name: value for name, value in asdict(self).items() if name != "noted"}


def train(
    model: SplitClassifier,
    train_set: ImageSet,
    holdout: ImageSet,
    regularizer: Regularizer,
    recipe: Recipe,
    *,
    seed: int,
    adversary: Adversary | None = None,
    state: SavedState | None = None,
    together: bool = False,
    on_epoch: Callable[[Epoch, SplitClassifier], Mapping[str, Any] | None] | None = None,
    on_batch: Callable[[float], None] | None = None,
) -> list[Epoch]:
    """Train `model` in place on `train_set`, measure on `holdout` after each epoch; the model ends in evaluation mode.

    Everything random (order, mixing, augmentation, dropout) comes from `seed`. The class centers that the curves refer
    to are the current head's, at the median norm of the held-out images that are classified correctly.

    Args:
        adversary: perturbs every training batch, after augmentation and mixing, towards a higher loss of its target.
        state: where to keep what the training needs to go on after every epoch; what is there already goes on. On one
            process it ends with the same weights, bit for bit. Not kept: what a regularizer of yours remembers itself.
        together: all ranks of the process group train this model (DistributedDataParallel), each on its part of every
            batch. Images in memory are mixed before they are divided, files are read and mixed by each rank. The
            first rank measures, calls `on_epoch` and writes `state`.
        on_epoch: called after every epoch with its figures and the model that they are of (the moving average, where
            there is one); plain values that it gives are kept in the epoch's `noted`, also over an interruption.
        on_batch: called after every batch with the share of the epoch that is done, in (0, 1].

    Raises:
        ValueError: an empty set, labels beyond the model's classes, or `together` without a process group.
        OtherRun: `state` holds a training of other options.
        RunStopped: the loss is no longer finite, or `state` cannot be written.
    """
    device = model.head.weight.device
    if not len(train_set) or not len(holdout):
        raise ValueError(f"nothing to train on: {len(train_set)} training and {len(holdout)} held-out images")
    if len(train_set.classes) > model.num_classes:
        raise ValueError(f"the data has {len(train_set.classes)} classes, the model {model.num_classes}")
    ranks = Ranks.of(device, together)
    generator = torch.Generator().manual_seed(seed)
    shown = Batches(for_training(train_set) if recipe.augment else train_set, device)
    shift = recipe.augment and not shown.files
    steps = recipe.steps(len(train_set), ranks.size)
    if not steps:
        raise ValueError(f"{len(train_set)} training images are too few for {ranks.size} ranks")
    context = Context(model, model.head.weight.detach(), generator, epochs=recipe.epochs)
    step = Stepper(model, regularizer, recipe, context, adversary, ranks)
    facts = {"recipe": recipe.as_dict(), "regularizer": repr(regularizer), "adversary": repr(adversary), "seed": seed}
    with seeded(seed + ranks.rank):
        found = None if state is None else ranks.first(lambda: state.read(facts))
        if found is None:
            history: list[Epoch] = []
            context.centers = _centers(model, *predict(model, holdout))
        else:
            history = [Epoch(**epoch) for epoch in json.loads(found["history"])]
            context.centers = found["centers"].to(device)
            step.load(found["step"])
            restore_random(found["random"], generator)
            if ranks.rank:  # the first one's draws are not for the others
                torch.manual_seed(seed + ranks.rank + 1000 * len(history))
            if adversary is not None:
                adversary.drawn = found["drawn"]

        def finish(sums: Tensor, rate: float) -> tuple[Epoch, Tensor]:
            """Measure, and keep what the next epoch begins with."""
            loss, rms, cosine = (sums / steps).tolist()
            outputs = predict(step.judged, holdout)
            if not math.isfinite(loss) or not bool(outputs[1].isfinite().all()):
                raise RunStopped(f"training diverged in epoch {number}: try a learning rate below {rate:g}")
            centers = _centers(step.judged, *outputs)
            epoch = Epoch(number, loss, rate, rms, cosine, **_measure(step.judged, *outputs, centers))
            if on_epoch is not None:
                epoch = replace(epoch, noted=dict(on_epoch(epoch, step.judged) or {}))
            if state is not None:
                kept = {
                    "history": json.dumps([asdict(each) for each in [*history, epoch]]),
                    "centers": centers.cpu(),
                    "step": step.state(),
                    "random": random_state(generator),
                    "drawn": 0 if adversary is None else adversary.drawn,
                }
                state.write(facts, kept)
            return epoch, centers.cpu()

        for number in range(len(history) + 1, recipe.epochs + 1):
            model.train()
            context.epoch = number
            sums = torch.zeros(3, dtype=torch.float64, device=device)
            order = list(recipe.batches(len(train_set), generator, ranks.size))
            draw = 0 if shown.in_memory else int(torch.randint(2**62, (), generator=generator))
            mine = order if shown.in_memory else [ranks.part(indices) for indices in order]
            for done, (indices, pixels) in enumerate(zip(mine, shown.pixels(mine, draw), strict=True)):
                rate = recipe.rate((number - 1) * steps + done, steps)
                images = unit(crop_and_flip(pixels, generator) if shift else pixels)
                mixed, target = regularizer.batch(images, shown.labels[indices.to(device)], context)
                if ranks.size > 1 and shown.in_memory:  # mixed as on one process, then divided
                    rows = ranks.part(torch.arange(len(mixed), device=device))
                    mixed, target = mixed[rows], target[rows]
                sums += step(mixed, target, rate, len(order[done]))
                if on_batch is not None:
                    on_batch((done + 1) / steps)
            ranks.same_generator(generator)
            ranks.same_buffers(model, step.judged)
            total = ranks.summed(sums)
            epoch, centers = ranks.first(partial(finish, total, rate))
            context.centers = centers.to(device)
            history.append(epoch)
    model.load_state_dict(step.judged.state_dict())
    model.eval()
    return history


def predict(model: SplitClassifier, images: ImageSet, batch_size: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, d), logits (N, K) and labels (N,) of all images, in evaluation mode, on the CPU.

    `batch_size`: images at a time; by default 512, fewer of large ones (55 of 224×224 in three channels).
    """
    if batch_size is None:
        batch_size = min(512, max(16, _PIXELS // images[0][0].numel())) if len(images) else 1
    device = model.head.weight.device
    was_training = model.training
    model.eval()
    features = []
    with torch.no_grad():
        for part in Batches(images, device).images(torch.arange(len(images)).split(batch_size)):
            features.append(model.features(part))
        stacked = torch.cat(features)
        logits = model.head(stacked)
    model.train(was_training)
    return stacked.cpu(), logits.cpu(), images.labels


def _centers(model: SplitClassifier, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Class centers (K, d) of the head as it is now; before anything is right, at the median norm of all features."""
    correct = logits.argmax(1) == labels
    radius = default_radius(features, correct)
    head = model.head
    points = class_centers(head.weight, head.bias, radius=radius, tolerance=_CURVE_TOLERANCE).points
    return points.to(head.weight.device, head.weight.dtype)


def _measure(
    model: SplitClassifier, features: Tensor, logits: Tensor, labels: Tensor, centers: Tensor
) -> dict[str, Any]:
    prediction = logits.argmax(1)
    geometry = feature_geometry(features, model.head.weight.detach().cpu(), centers.cpu(), labels, prediction)
    return {
        "accuracy": float((prediction == labels).double().mean()),
        "rms": float(geometry.rms.mean()),
        "cosine": float(geometry.cosine.nanmean()),
        "cosine_in_span": float(geometry.cosine_in_span.nanmean()),
    }
