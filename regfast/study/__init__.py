"""The whole experiment: train each regularizer, attack, measure, write the result files of docs/reference/files.md."""

from regfast.runs.progress import Progress
from regfast.study.config import (
    SIZES,
    AttackSetting,
    StudyConfig,
    Sweep,
    built,
    default_workers,
    named_regularizers,
    sized,
)
from regfast.study.run import run_study

__all__ = [
    "SIZES",
    "AttackSetting",
    "Progress",
    "StudyConfig",
    "Sweep",
    "built",
    "default_workers",
    "named_regularizers",
    "run_study",
    "sized",
]
