"""Soft labels: `SoftTargets` keeps them as two classes and two numbers a sample; `MixUp`, `CutMix` and kin make them.

`q = (1 - s)(λ e_first + (1 - λ) e_second) + s/K`. Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567); Mixup: Zhang
et al. 2018 (1710.09412); CutMix: Yun et al. 2019 (1905.04899).
"""

from regfast.targets.mixing import cutmix, mixup
from regfast.targets.soft_targets import SoftTargets, smooth
from regfast.targets.transforms import CutMix, MixUp, RandomChoice

__all__ = ["CutMix", "MixUp", "RandomChoice", "SoftTargets", "cutmix", "mixup", "smooth"]
