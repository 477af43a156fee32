"""How to train: epochs, batches, optimizer, schedule, augmentation and precision, in one place and by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regfast.registry import Registry
from regfast.training.regularizers.base import checked_range

SCHEDULES = ("cosine", "linear", "steps")
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, a linear warm-up and a schedule; as it stands, for the embedded digits.

    Norms and biases are not decayed. Loss and statistics are float32 at every `precision`.

    Args:
        epochs: passes over the data.
        batch_size: images an optimizer step, over all ranks and accumulated parts.
        learning_rate: its peak.
        momentum: in [0, 1).
        weight_decay: of weights.
        warmup: epochs that lead up to the peak, at most half of all.
        schedule: from the peak down: "cosine" or "linear" to 0; "steps": a tenth of it from the half of training and a
            hundredth from three quarters on (He et al. 2016).
        augment: random crops and flips, the usual choice for photographs and wrong for digits: shifts by 4 pixels, or
            for image files crops of 8 to 100 % of the area, resized.
        precision: of the network: "float32", or "bf16" or "fp16" where autocast allows; fp16 with a loss scale.
        channels_last: keep images and weights in that memory format.
        compile: run the network through torch.compile.
        accumulate: parts that a batch is cut in, one after the other; the gradient is the whole batch's.
        sync_batchnorm: batch norms count all ranks' images (GPUs only).
        ema: decay of an exponential moving average of the weights, which takes their place at the end; 0: none.

    Raises:
        ValueError: for values out of range.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 1.0
    schedule: str = "cosine"
    augment: bool = False
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    accumulate: int = 1
    sync_batchnorm: bool = False
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        checked_range("learning_rate", self.learning_rate, 0, open_low=True)
        for name in ("weight_decay", "warmup"):
            checked_range(name, getattr(self, name), 0)
        for name in ("momentum", "ema"):
            if checked_range(name, getattr(self, name), 0, 1) == 1:
                raise ValueError(f"{name} must be below 1, got {getattr(self, name)}")
        for name, known in (("schedule", SCHEDULES), ("precision", tuple(PRECISIONS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("augment", "channels_last", "compile", "sync_batchnorm"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if self.accumulate > max(1, self.batch_size // 2):
            raise ValueError(f"accumulate must leave at least 2 images of {self.batch_size} a part: {self.accumulate}")

    def as_dict(self) -> dict[str, Any]:
        """Its name and every value, for `config.json`."""
        return {"name": RECIPES.name_of(type(self)), **asdict(self)}

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD over the model's trainable parameters, those of one dimension without weight decay."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.SGD(
            [
                {"params": [p for p in parameters if p.dim() > 1], "weight_decay": self.weight_decay},
                {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.momentum > 0,
        )

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of training step `step` (0 is the first)."""
        warmup = min(self.warmup, self.epochs / 2) * steps_per_epoch
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        if self.schedule == "steps":
            return self.learning_rate * 0.1 ** sum(
                step >= share * self.epochs * steps_per_epoch for share in (0.5, 0.75)
            )
        progress = (step - warmup) / max(self.epochs * steps_per_epoch - warmup, 1)
        if self.schedule == "linear":
            return self.learning_rate * (1 - progress)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def batches(self, count: int, generator: torch.Generator, ranks: int = 1) -> Iterator[Tensor]:
        """Indices of one epoch's batches, shuffled; a last batch of a single image a rank is left out (batch norm)."""
        for indices in torch.randperm(count, generator=generator).split(self.batch_size):
            if len(indices) >= 2 * ranks or count == 1:
                yield indices

    def steps(self, count: int, ranks: int = 1) -> int:
        """Batches an epoch has."""
        whole, rest = divmod(count, self.batch_size)
        return whole + (rest >= 2 * ranks or count == 1)


RECIPES: Registry[Recipe] = Registry("recipe", Recipe)
RECIPES.register("digits")(Recipe)


@RECIPES.register("cifar")
@dataclass(frozen=True)
class Cifar(Recipe):
    """200 epochs of SGD, a tenth of the rate from the half and from three quarters on: CIFAR's usual long training."""

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    warmup: float = 0.0
    schedule: str = "steps"
    augment: bool = True


@RECIPES.register("cifar-fast")
@dataclass(frozen=True)
class CifarFast(Recipe):
    """24 epochs of one cycle, up to a high rate and linearly down to 0: an eighth of `cifar`'s time."""

    epochs: int = 24
    batch_size: int = 128
    learning_rate: float = 0.2
    warmup: float = 5.0
    schedule: str = "linear"
    augment: bool = True
    channels_last: bool = True


@RECIPES.register("imagenet")
@dataclass(frozen=True)
class ImageNet(Recipe):
    """90 epochs of SGD with five of warm-up and a cosine (Goyal et al. 2017, He et al. 2019); ResNet-50's standard."""

    epochs: int = 90
    batch_size: int = 256
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    warmup: float = 5.0
    augment: bool = True
    channels_last: bool = True


def stored_recipe(stored: Mapping[str, Any]) -> Recipe:
    """The recipe that `as_dict` said. Raises ValueError for one that does not exist, or with other values."""
    return RECIPES.build(stored.get("name", "digits"), **{key: stored[key] for key in stored if key != "name"})
