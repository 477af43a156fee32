"""regfast: losses with soft labels, the geometry they leave in feature space, and attacks that waste nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regfast import (
        attacks,
        calibration,
        data,
        evaluation,
        functional,
        measurement,
        models,
        nn,
        paper,
        report,
        representation,
        statistics,
        study,
        targets,
        training,
    )
    from regfast.evaluation import evaluate
    from regfast.functional import (
        FeatureStats,
        SampleStats,
        feature_stats,
        linear_soft_cross_entropy,
        soft_cross_entropy,
        soft_cross_entropy_stats,
    )
    from regfast.measurement import measure
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
    "attacks",
    "calibration",
    "cutmix",
    "data",
    "evaluate",
    "evaluation",
    "feature_stats",
    "functional",
    "linear_soft_cross_entropy",
    "measure",
    "measurement",
    "mixup",
    "models",
    "nn",
    "paper",
    "report",
    "representation",
    "show_config",
    "smooth",
    "soft_cross_entropy",
    "soft_cross_entropy_stats",
    "statistics",
    "study",
    "targets",
    "training",
    "use_backend",
]

# Where the names that are no module live. All are loaded when first asked for: the command line answers without torch.
_HOME = {
    "evaluate": "evaluation",
    "measure": "measurement",
    **dict.fromkeys(("BackendError", "show_config", "use_backend"), "ops.dispatch"),
    **dict.fromkeys(("CutMix", "MixUp", "RandomChoice", "SoftTargets", "cutmix", "mixup", "smooth"), "targets"),
    **dict.fromkeys(("FeatureStats", "SampleStats", "feature_stats", "linear_soft_cross_entropy"), "functional"),
    **dict.fromkeys(("soft_cross_entropy", "soft_cross_entropy_stats"), "functional"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'regfast' has no attribute {name!r}")
    module = importlib.import_module(f"regfast.{_HOME.get(name, name)}")
    found = getattr(module, name) if name in _HOME else module
    globals()[name] = found  # found without this function from now on
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
