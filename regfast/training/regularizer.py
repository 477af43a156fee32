"""The regularizers of a study: each makes a batch's images and soft targets out of images and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regfast.targets import SoftTargets, cutmix, mixup, smooth

Batch = tuple[Tensor, "Tensor | SoftTargets"]


def _hard(images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Batch:
    return images, labels


def _smoothing(
    images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator, *, smoothing: float
) -> Batch:
    return images, smooth(labels, num_classes, smoothing)


def _mixup(images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator, *, alpha: float) -> Batch:
    return mixup(images, labels, num_classes, alpha, generator=generator)


def _cutmix(images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator, *, alpha: float) -> Batch:
    return cutmix(images, labels, num_classes, alpha, generator=generator)


_RULES: Mapping[str, Callable[..., Batch]] = {
    "hard": _hard,
    "smoothing": _smoothing,
    "mixup": _mixup,
    "cutmix": _cutmix,
}
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "hard": {},
    "smoothing": {"smoothing": 0.1},
    "mixup": {"alpha": 1.0},
    "cutmix": {"alpha": 1.0},
}


@dataclass(frozen=True)
class Regularizer:
    """A regularizer by name with its parameters.

    `hard`: labels as they are. `smoothing` (Szegedy et al. 2016): share `smoothing` of each target spread over all
    classes, in [0, 1]. `mixup` (Zhang et al. 2018) and `cutmix` (Yun et al. 2019): one λ ~ Beta(alpha, alpha) a batch,
    alpha > 0. Parameters left out have the values of `DEFAULTS`.

    Raises ValueError for unknown names and parameters, and for values out of range.
    """

    name: str
    params: Mapping[str, float]

    def __init__(self, name: str, **params: float):
        if name not in _RULES:
            raise ValueError(f"no regularizer is called {name!r}; there are {', '.join(_RULES)}")
        unknown = sorted(set(params) - set(DEFAULTS[name]))
        if unknown:
            known = ", ".join(DEFAULTS[name]) or "none"
            raise ValueError(f"regularizer {name} has no parameter {', '.join(unknown)}; it takes {known}")
        values: dict[str, Any] = {**DEFAULTS[name], **params}
        if "smoothing" in values and not 0 <= values["smoothing"] <= 1:
            raise ValueError(f"smoothing must lie in [0, 1], got {values['smoothing']}")
        if "alpha" in values and not 0 < values["alpha"] < float("inf"):
            raise ValueError(f"alpha must be positive and finite, got {values['alpha']}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "params", values)

    def __call__(self, images: Tensor, labels: Tensor, num_classes: int, generator: torch.Generator) -> Batch:
        """Images (B, C, H, W) and target of one training batch; draws from `generator` alone."""
        return _RULES[self.name](images, labels, num_classes, generator, **self.params)
