"""Attacks on the lane engine: one file each, see base.py for what an attack states and engine.py for the loop."""

from regfast.attacks.apgd import APGD
from regfast.attacks.base import Attack, AttackResult
from regfast.attacks.fgsm import FGSM
from regfast.attacks.pgd import PGD

__all__ = ["APGD", "FGSM", "PGD", "Attack", "AttackResult"]
