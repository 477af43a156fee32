"""A trained unit of the main study, loaded: its model, and what it makes of training and test images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from regfast.data import ImageSet, Splits, load_splits
from regfast.models import SplitClassifier, load_model
from regfast.study import StudyConfig
from regfast.study.run import Unit
from regfast.training import predict


@dataclass(frozen=True)
class Outputs:
    """A model with its features (N, d), logits (N, K) and labels (N,) of the study's test images, on the CPU.

    `ids` (N,) int64: their `sample` in samples.parquet; their places by default.
    """

    model: SplitClassifier
    test: ImageSet
    features: Tensor
    logits: Tensor
    labels: Tensor
    ids: Tensor | None = None

    @property
    def samples(self) -> Tensor:
        """(N,) int64 `sample` of samples.parquet."""
        return torch.arange(len(self.labels)) if self.ids is None else self.ids

    @property
    def weight(self) -> Tensor:
        """The head's (K, d)."""
        return self.model.head.weight.detach().cpu()

    @property
    def bias(self) -> Tensor | None:
        """The head's (K,), or None."""
        return None if self.model.head.bias is None else self.model.head.bias.detach().cpu()

    @property
    def correct(self) -> Tensor:
        """(N,) bool."""
        return self.logits.argmax(1) == self.labels

    def images(self) -> Tensor:
        """All test images (N, C, H, W)."""
        return self.test.batch(torch.arange(len(self.test)))


def splits_of(study: StudyConfig) -> Splits:
    """The data of a study, its test part cut as the study cuts it."""
    return load_splits(study.dataset, study.data_root).limited(study.limit)


def outputs_of(study: StudyConfig, splits: Splits, unit: Unit, device: torch.device) -> Outputs:
    """A finished unit's model on `device`, and what it says of the test images."""
    model = load_model(study.model, unit.checkpoint, num_classes=splits.num_classes, in_channels=splits.image_shape[0])
    model.to(device)
    return Outputs(model, splits.test, *predict(model, splits.test))


def unit_of(folder: Path, regularizer: str, seed: int) -> Unit:
    """The unit of the study in `folder`."""
    return Unit(regularizer, seed, folder)
