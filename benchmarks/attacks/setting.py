"""What every attack is measured on: ResNet-20, CIFAR-10 images, and a counter of what the model is asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from regfast.models import load_model

DATA = Path(__file__).parents[3] / "shared" / "data"
CHECKPOINTS = {"ordinary": "resnet20_cifar10.safetensors", "robust": "robust_resnet20_cifar10.safetensors"}


def network(kind: str, data: Path = DATA) -> nn.Module:
    """The "ordinary" or the adversarially trained ("robust") ResNet-20, images in [0, 1] to logits."""
    return load_model("resnet20", checkpoint=data / CHECKPOINTS[kind])


def samples(count: int, data: Path = DATA, file_name: str = "cifar10_test2k.npz") -> tuple[Tensor, Tensor]:
    """The first `count` images (N, 3, 32, 32) and labels of a file, by default of the test images."""
    with np.load(data / file_name) as file:
        images, labels = file["images"][:count], file["labels"][:count]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous(), torch.from_numpy(labels)


class Counted(nn.Module):
    """A model that counts, per sample: forward passes, input gradients, and weight gradients.

    A weight gradient is one that backward() makes beside the input's: peers that leave requires_grad on pay for both.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.queries = self.gradients = self.weights = 0
        self.batch = 0
        next(model.parameters()).register_hook(self._on_weight)

    def forward(self, images: Tensor) -> Tensor:
        self.batch = len(images)
        self.queries += self.batch
        logits = self.model(images)
        if logits.requires_grad and images.requires_grad:
            logits.register_hook(self._on_gradient)
        return logits

    def _on_gradient(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)

    def _on_weight(self, gradient: Tensor) -> None:
        self.weights += self.batch


@dataclass
class Outcome:
    """One attack on one model: what it cost, evaluations summed over samples, and what is left."""

    who: str
    robust_accuracy: float
    queries: int
    gradients: int
    weight_gradients: int
    seconds: float
    cpu_seconds: float  # of the whole process: what a loaded machine disturbs less

    @property
    def units(self) -> int:
        """Forward passes, input gradients and weight gradients, one each."""
        return self.queries + self.gradients + self.weight_gradients

    def row(self) -> dict[str, object]:
        """As the result file holds it."""
        return asdict(self) | {"units": self.units}
