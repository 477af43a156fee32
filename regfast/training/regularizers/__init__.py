"""Regularizers, one file each: what exists is what is imported here, or a user's own by `module:Name`."""

from regfast.training.regularizers.base import REGULARIZERS, Context, Regularizer, checked_range, register
from regfast.training.regularizers.cosine_reward import CosineReward
from regfast.training.regularizers.cutmix import CutMix
from regfast.training.regularizers.distillation import Distillation
from regfast.training.regularizers.hard import Hard
from regfast.training.regularizers.logit_norm import LogitNorm
from regfast.training.regularizers.maxsup import MaxSup
from regfast.training.regularizers.mixup import Mixup
from regfast.training.regularizers.rms_penalty import RMSPenalty
from regfast.training.regularizers.smoothing import Smoothing

__all__ = [
    "REGULARIZERS",
    "Context",
    "CosineReward",
    "CutMix",
    "Distillation",
    "Hard",
    "LogitNorm",
    "MaxSup",
    "Mixup",
    "RMSPenalty",
    "Regularizer",
    "Smoothing",
    "checked_range",
    "register",
]
