"""regfast: losses with soft labels, the geometry they leave in feature space, and attacks that waste nothing."""

from __future__ import annotations

import importlib
from typing import Any

from regfast import functional, nn, targets
from regfast.functional import (
    FeatureStats,
    SampleStats,
    feature_stats,
    linear_soft_cross_entropy,
    soft_cross_entropy,
    soft_cross_entropy_stats,
)
from regfast.ops.dispatch import BackendError, show_config, use_backend
from regfast.targets import CutMix, MixUp, RandomChoice, SoftTargets, cutmix, mixup, smooth

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CutMix",
    "FeatureStats",
    "MixUp",
    "RandomChoice",
    "SampleStats",
    "SoftTargets",
    "cutmix",
    "feature_stats",
    "functional",
    "linear_soft_cross_entropy",
    "mixup",
    "nn",
    "show_config",
    "smooth",
    "soft_cross_entropy",
    "soft_cross_entropy_stats",
    "targets",
    "use_backend",
]

# Reached as regfast.<name> without an import of their own, and loaded only then: they bring heavier libraries.
_LAZY = frozenset(
    {
        "attacks",
        "calibration",
        "data",
        "evaluation",
        "models",
        "report",
        "representation",
        "statistics",
        "study",
        "training",
    }
)


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        return importlib.import_module("regfast.evaluation").evaluate
    if name in _LAZY:
        return importlib.import_module(f"regfast.{name}")
    raise AttributeError(f"module 'regfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, "evaluate"})
