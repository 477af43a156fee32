"""Attacks as a user writes them on the command line, at the radii that the user gave."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regfast.cli._options import check_radius, number, numbers

if TYPE_CHECKING:
    from regfast.attacks import Adversary
    from regfast.attacks.base import Runnable
    from regfast.study import AttackSetting

DEFAULT_EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}  # what leaderboards ask of CIFAR-10


def attack_names() -> list[str]:
    """What `ATTACKS.names()` gives, read from the attacks' files: importing them takes seconds, for torch."""
    files = (Path(__file__).parents[1] / "attacks").glob("*.py")
    texts = (path.read_text(encoding="utf-8") for path in files)
    return sorted(name for text in texts for name in re.findall(r'^@ATTACKS\.register\("(.+)"\)', text, re.MULTILINE))


def build_attacks(spec: str, norm: str | None, eps: str | None, **options: Any) -> list[Runnable]:
    """The attack of `spec`, such as `pgd`, `pgd:steps=40,restarts=5` or `module:Class`, at each radius of `eps`.

    `norm` and `options` that are None are left to the attack; without `eps` it is attacked at `DEFAULT_EPS`. What
    `spec` says itself wins. Raises ValueError for what the attack does not take, and for a linf radius above 1.
    """
    import inspect

    from regfast.attacks.registry import ATTACKS
    from regfast.registry import parse

    name, own = parse(spec)
    given = {key: value for key, value in options.items() if value is not None}
    if norm is not None and "norm" in inspect.signature(ATTACKS.find(name)).parameters:
        given["norm"] = norm.lower()
    attack = ATTACKS.build(spec, **given)
    if norm is not None and "norm" not in own and attack.norm.name != norm.lower():
        raise ValueError(f"--norm {norm}: {name} knows {attack.norm.name} alone")
    if "eps" in own:
        attacks = [attack]
    else:
        radii = [DEFAULT_EPS[attack.norm.name]] if eps is None else numbers(eps, "--eps")
        attacks = [attack.at(radius) for radius in radii]
    for each in attacks:
        if isinstance(each.eps, float):
            check_radius(each.eps, each.norm.name)
    return attacks


def build_adversary(spec: str, seed: int) -> Adversary:
    """The training adversary of `spec`: an attack's options and, with them, the adversary's keep, mode and loss=kl.

    Raises ValueError for what neither takes, TypeError for an attack that is none of gradient steps in a ball.
    """
    from regfast.attacks import Adversary
    from regfast.attacks.registry import ATTACKS
    from regfast.registry import parse

    name, attack = parse(spec)
    own: dict[str, Any] = {option: attack.pop(option) for option in ("keep", "mode") if option in attack}
    if attack.get("loss") == "kl":
        own["loss"] = attack.pop("loss")
    return Adversary(ATTACKS.build(name, **attack), seed=seed, **own)  # type: ignore[arg-type]  # it checks its kind


def changed_attacks(
    attacks: tuple[AttackSetting, ...], eps: Mapping[str, str | None], steps: int | None, more: Sequence[str]
) -> tuple[AttackSetting, ...]:
    """`attacks` with what the user gave: WEAK,STRONG eps by norm, steps of the strong PGD, and more attacks, by specs.

    Raises ValueError for what does not fit.
    """
    from regfast.attacks.registry import ATTACKS
    from regfast.study import AttackSetting

    for norm, text in eps.items():
        if text is not None:
            parts = [number(part, f"--eps-{norm}") for part in text.split(",")]
            if len(parts) != 2:
                raise ValueError(f"--eps-{norm} expects WEAK,STRONG, got {text!r}")
            check_radius(parts[1], norm)
            if parts[0] > parts[1]:
                raise ValueError(f"--eps-{norm} expects WEAK,STRONG, the smaller first, got {text!r}")
            strength = dict(zip(("weak", "strong"), parts, strict=True))
            attacks = tuple(
                replace(attack, eps=strength[attack.setting]) if attack.norm == norm else attack for attack in attacks
            )
    if steps is not None:
        attacks = tuple(
            replace(attack, steps=steps) if (attack.attack, attack.setting) == ("pgd", "strong") else attack
            for attack in attacks
        )
    for spec in more:
        norm = ATTACKS.build(spec).norm.name
        strength = {attack.setting: attack.eps for attack in attacks if attack.norm == norm}
        if not strength:
            known = " and ".join(dict.fromkeys(attack.norm for attack in attacks))
            raise ValueError(f"--attack {spec}: there are radii for {known} here, not for {norm}")
        attacks += tuple(AttackSetting(spec, norm, eps, None, None, setting) for setting, eps in strength.items())
    return attacks
