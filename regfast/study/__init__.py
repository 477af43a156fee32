"""The whole experiment: train each regularizer, attack, measure, write the result files of docs/design.md."""

from regfast.study.config import SIZES, AttackSetting, StudyConfig, Sweep, sized
from regfast.study.run import Progress, run_study

__all__ = ["SIZES", "AttackSetting", "Progress", "StudyConfig", "Sweep", "run_study", "sized"]
