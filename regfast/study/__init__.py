"""The whole experiment: train each regularizer, attack, measure, write the result files of docs/reference/files.md."""

from regfast.study.config import SIZES, AttackSetting, StudyConfig, Sweep, built, named_regularizers, sized
from regfast.study.progress import Progress
from regfast.study.run import run_study
from regfast.study.workers import default_workers

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
