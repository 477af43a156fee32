"""AutoAttack: Croce and Hein 2020 (arXiv 2003.01690), the ensemble whose `standard` version leaderboards quote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from regfast.attacks.apgd import APGD
from regfast.attacks.base import Attack, Runnable
from regfast.attacks.fab import FAB
from regfast.attacks.fmn import FMN
from regfast.attacks.norms import Norm, norm_of
from regfast.attacks.registry import ATTACKS
from regfast.attacks.rules import Eps, checked_eps
from regfast.attacks.square import Square


@ATTACKS.register("autoattack")
class AutoAttack(Runnable):
    """Several attacks in a row; each gets the samples that are still right, from their clean images.

    | version | stages |
    |---|---|
    | standard | apgd-ce, apgd-t (9 targets), fab-t (9 targets), square (5,000 queries) |
    | plus | apgd-ce and apgd-dlr (5 restarts), fab (5 restarts), square, apgd-t, fab-t |
    | rand | apgd-ce, apgd-dlr, each gradient averaged over 20 answers: for models that answer at random |
    | fast | apgd-pma (few steps), apgd-t in MALT's order, some fab-t and square (l2: fmn): a tenth of standard's work |

    For l1, standard runs apgd-ce from 5 starts and apgd-t at 5 targets, both through balls of 3, 2 and 1 eps.

    Args:
        norm: "linf", "l2" or "l1".
        eps: radius, in units of images in [0, 1], or a tensor of them (`rules.checked_eps`).
        version: see the table. Only standard (and plus, rand) are what published figures mean.

    >>> result = AutoAttack("linf", 8 / 255, version="fast").run(model, images, labels)
    >>> bool((result.images - images).abs().max() <= 8 / 255)
    True
    """

    def __init__(self, norm: str | Norm = "linf", eps: Eps = 8 / 255, version: str = "standard"):
        self.norm = norm_of(norm)
        self.eps = checked_eps(eps)
        if not isinstance(version, str) or version not in VERSIONS:
            raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {version!r}")
        self.version = version
        self.name = "autoattack" if version == "standard" else f"autoattack-{version}"
        self._stages = VERSIONS[version](self.norm, self.eps)

    def stages(self) -> Sequence[Attack]:
        return self._stages


def _standard(norm: Norm, eps: Eps) -> list[Attack]:
    restarts, targets = (5, 5) if norm.name == "l1" else (1, 9)
    return [
        APGD(norm, eps, restarts=restarts),
        APGD(norm, eps, loss="dlr", targets=targets),
        FAB(norm, eps, targets=9),
        Square(norm, eps),
    ]


def _plus(norm: Norm, eps: Eps) -> list[Attack]:
    targets = 5 if norm.name == "l1" else 9
    return [
        APGD(norm, eps, restarts=5),
        APGD(norm, eps, restarts=5, loss="dlr"),
        FAB(norm, eps, restarts=5),
        Square(norm, eps),
        APGD(norm, eps, loss="dlr", targets=targets),
        FAB(norm, eps, targets=9),
    ]


def _rand(norm: Norm, eps: Eps) -> list[Attack]:
    return [APGD(norm, eps, samples=20), APGD(norm, eps, loss="dlr", samples=20)]


def _fast(norm: Norm, eps: Eps) -> list[Attack]:
    first = APGD(norm, eps, steps=20, loss="probability-margin")
    if norm.name == "l2":  # where a model hides its gradients, FMN finds what APGD does not, at a third of FAB's price
        targeted = APGD(norm, eps, steps=50, loss="dlr", targets=4, target_order="malt")
        return [first, targeted, FMN(norm, eps, steps=120), FAB(norm, eps, steps=30, targets=2)]
    targeted = APGD(norm, eps, steps=60, loss="dlr", targets=4, target_order="malt")
    return [first, targeted, FAB(norm, eps, steps=40, targets=2), Square(norm, eps, 100)]


VERSIONS: dict[str, Callable[[Norm, Eps], list[Attack]]] = {
    "standard": _standard,
    "plus": _plus,
    "rand": _rand,
    "fast": _fast,
}
