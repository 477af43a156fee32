"""Fast gradient sign method: Goodfellow et al. 2015 (arXiv 1412.6572), one step of length eps."""

from __future__ import annotations

from regfast.attacks.norms import Norm
from regfast.attacks.pgd import PGD
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps


@ATTACKS.register("fgsm")
class FGSM(PGD):
    """One move of length `eps` along the ascent direction of the loss.

    Args:
        norm: "linf" (the sign), "l2" or "l1".
        eps: radius, in units of images in [0, 1], or a tensor of them (`checked_eps`).
        loss: "ce", "dlr", "margin" or "probability-margin".
        random_start: begin at a random point of the ball and step 1.25 · eps (Wong et al. 2020, arXiv 2001.03994).
    """

    name = "fgsm"

    def __init__(self, norm: str | Norm = "linf", eps: Eps = 8 / 255, *, loss: str = "ce", random_start: bool = False):
        super().__init__(norm, eps, steps=1, loss=loss, random_start=random_start)
        self.way = 1.25 if random_start else 1.0
