"""Attacks on the lane engine: one file each. rules.py has what an attack states, engine.py the loop."""

from regfast.attacks.adversary import Adversary
from regfast.attacks.apgd import APGD
from regfast.attacks.autoattack import AutoAttack
from regfast.attacks.base import Attack
from regfast.attacks.checks import AttackWarning
from regfast.attacks.curves import robust_accuracy_curve
from regfast.attacks.cw import CarliniWagner
from regfast.attacks.ddn import DDN
from regfast.attacks.fab import FAB
from regfast.attacks.fgsm import FGSM
from regfast.attacks.fmn import FMN
from regfast.attacks.pgd import PGD
from regfast.attacks.prepared import PreparedModel
from regfast.attacks.result import AttackResult
from regfast.attacks.square import Square

__all__ = [
    "APGD",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "PGD",
    "Adversary",
    "Attack",
    "AttackResult",
    "AttackWarning",
    "AutoAttack",
    "CarliniWagner",
    "PreparedModel",
    "Square",
    "robust_accuracy_curve",
]
