"""What a measurement does: which images, attacks and parts, as `config.json` and the page list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regfast.paper.config import figure_attacks
from regfast.paper.parts import PARTS, Given, Part
from regfast.study.config import SIZES, AttackSetting, Sweep, attacks_at, attacks_dict, kind_of

VERSION = 1  # of the result files; a run of another version is not continued


@dataclass(frozen=True)
class _Size:
    limit: int | None  # images
    attacked: int | None  # of those measured
    steps: int  # of the strong attack
    restarts: int
    sweep_steps: int
    parts: Mapping[str, int]  # fields of `Given`


_SIZES = {
    "full": _Size(None, 1000, 40, 2, 10, {"images": 5000, "steps": 40, "scales": 41, "radii": 13}),
    "small": _Size(5000, 200, 20, 1, 10, {"images": 2000, "steps": 20, "scales": 41, "radii": 9}),
    "smoke": _Size(200, 16, 10, 1, 5, {"images": 200, "steps": 5, "scales": 9, "radii": 5}),
}


@dataclass(frozen=True)
class MeasureConfig:
    """A measurement's options, all of them resolved; `sized_measurement` makes one from few words.

    Attributes:
        attacks, sweep: as of a study.
        limit: use so many images; None: all.
        attacked: attack so many of those measured; None: all.
        holdout: share of the images that temperatures are fitted on and nothing is measured on, in (0, 1).
        parts: per part of the paper that is computed, its settings.
        part_images: parts that are about samples look at so many of those measured, the attacked ones first.
        seed: of the attacks.
    """

    attacks: tuple[AttackSetting, ...]
    sweep: Sweep
    parts: Mapping[str, Mapping[str, Any]]
    part_images: int
    limit: int | None = None
    attacked: int | None = None
    holdout: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        ids = [attack.id for attack in self.attacks]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError(f"attacks must differ in attack, norm or setting, got {', '.join(ids) or 'none'}")
        for name in ("limit", "attacked"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout must lie in (0, 1), got {self.holdout}")

    def as_dict(self) -> dict[str, Any]:
        """What `config.json` says about the measurement (docs/reference/files.md)."""
        return {
            **attacks_dict(self.attacks, self.sweep),
            "limit": self.limit,
            "attacked": self.attacked,
            "holdout": self.holdout,
            "part_images": self.part_images,
            "attack seed": self.seed,
            **{name: dict(settings) for name, settings in self.parts.items()},
        }


def measured_parts() -> list[Part]:
    """The parts of the paper that need no training of their own: of heads, models and the models of one seed."""
    return [part for part in PARTS if any(map(part.has, ("of_run", "of_model", "of_measured", "of_seed")))]


def sized_measurement(
    size: str = "full", dataset: str | None = None, *, classes: int = 0, **options: Any
) -> MeasureConfig:
    """The measurement of one of the studies' sizes, with `options` (fields of `MeasureConfig`) in place of its own.

    full: all images, 1,000 of them attacked. small: 5,000 images, 200 of them attacked. smoke: 200 and 16; it shows
    that everything works. The attacks are those of Fig. 3: FGSM, PGD and AutoAttack (its fast version), weak and
    strong; eps suit the data set: 8×8 digits (what is embedded) or photographs (everything else). `classes`: of the
    networks; where there are more than 100, some stand for all in what takes a solver for each.
    Raises ValueError for another size.
    """
    if size not in _SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    chosen, kind = _SIZES[size], kind_of(dataset)
    attacks = figure_attacks(attacks_at(kind.weak, kind.strong, chosen.steps, chosen.restarts))
    defaults: dict[str, Any] = {
        "attacks": attacks,
        "sweep": Sweep("linf", kind.sweep, chosen.sweep_steps),
        "limit": chosen.limit,
        "attacked": chosen.attacked,
        "part_images": chosen.parts["images"],
    }
    found = {**defaults, **options}
    given = Given(_Main(tuple(found["attacks"])), 0, **chosen.parts, classes=classes)
    parts = {part.name: part.settings(given) for part in measured_parts()}
    return MeasureConfig(**{"parts": parts, **found})


@dataclass(frozen=True)
class _Main:
    """What the settings of the parts follow from."""

    attacks: tuple[AttackSetting, ...]
    trajectory: int = 0
