"""How to train: epochs, batches, optimizer, schedule and augmentation, in one place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum, a linear warm-up and a cosine down to 0.

    `learning_rate` is the peak, for batches of `batch_size`; `warmup` the epochs that lead up to it.
    `augment` adds random crops (4 pixels of padding) and flips, the usual choice for photographs and wrong for digits.
    Norms and biases are not decayed. Raises ValueError for values out of range.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 1.0
    augment: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        for name in ("weight_decay", "warmup"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
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
        progress = (step - warmup) / max(self.epochs * steps_per_epoch - warmup, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def batches(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Indices of one epoch's batches, shuffled; a last batch of a single image is left out (batch norm)."""
        for indices in torch.randperm(count, generator=generator).split(self.batch_size):
            if len(indices) > 1 or count == 1:
                yield indices

    def steps(self, count: int) -> int:
        """Batches an epoch has."""
        whole, rest = divmod(count, self.batch_size)
        return whole + (rest > 1 or count == 1)


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Images (B, C, H, W) shifted by up to `padding` pixels each way over zeros, half of them mirrored."""
    count, _, height, width = images.shape
    padded = nn.functional.pad(images, (padding,) * 4)
    top, left = (torch.randint(2 * padding + 1, (count, 1), generator=generator) for _ in range(2))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(count)[:, None, None]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
