"""What a study does: the options resolved, written to `config.json`, and compared when a study goes on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from regfast.attacks.base import Runnable
from regfast.attacks.registry import ATTACKS
from regfast.data import data_set
from regfast.registry import parse
from regfast.runs.errors import InputError
from regfast.runs.files import read_json
from regfast.runs.workers import cores
from regfast.training import RECIPES, REGULARIZERS, Recipe, Regularizer
from regfast.training.recipe import stored_recipe

PAPER = ("hard", "smoothing", "mixup", "cutmix")  # the regularizers of the paper: what a study compares by default
VERSION = 2  # of the result files; a run of another version is not continued


_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-")  # of files too


def check_name(kind: str, name: str) -> None:
    """Raises ValueError for a name that cannot be part of a file's name; `kind` says of what."""
    if not name or not set(name) <= _NAME_CHARACTERS or name.startswith("."):
        raise ValueError(f"a {kind} is named by letters, digits and any of '_.=+-', got {name!r}")


def built(name: str, options: Mapping[str, Any]) -> Regularizer:
    """The regularizer that a study calls `name`; see `StudyConfig`. Raises ValueError for what does not exist."""
    rest = {option: value for option, value in options.items() if option != "regularizer"}
    return REGULARIZERS.build(options.get("regularizer", name), **rest)


def named_regularizers(specs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`StudyConfig.regularizers` of what a user writes.

    >>> named_regularizers(["hard", "maxsup:strength=0.2", "strong=maxsup:strength=1"])["strong"]
    {'regularizer': 'maxsup', 'strength': 1}

    One that has no name of its own (before "=") goes by its registered name, or the class's for a user's own; where
    several are alike, by their options too: "maxsup-strength=0.2". Raises ValueError for names that occur twice.
    """
    found: dict[str, dict[str, Any]] = {}
    parsed = []
    for spec in specs:
        name, equals, rest = spec.partition("=")
        own = bool(equals) and ":" not in name
        source, options = parse(rest if own else spec)
        parsed.append((name.strip() if own else None, source, options))
    sources = [source for name, source, _ in parsed if name is None]
    for given, source, options in parsed:
        name = given or source.rpartition(":")[2]
        if given is None and sources.count(source) > 1 and options:
            name = "-".join([name, *(f"{option}={value}" for option, value in options.items())])
        if name in found:
            raise ValueError(f"two regularizers are called {name}; write NAME={source}:… to tell them apart")
        found[name] = {**({} if name == source else {"regularizer": source}), **options}
    return found


@dataclass(frozen=True)
class AttackSetting:
    """One attack at one strength. `eps` in units of images in [0, 1]; `setting` is weak or strong.

    `attack` is a registered name or the user's `module:Name`, with options ("apgd:loss=dlr"); "autoattack-fast" is
    AutoAttack's fast version. `steps` and `restarts` are for attacks that take them; None is their own default.
    """

    attack: str
    norm: str
    eps: float
    steps: int | None
    restarts: int | None
    setting: str

    def __post_init__(self) -> None:
        if self.setting not in ("weak", "strong"):
            raise ValueError(f"setting must be weak or strong, got {self.setting!r}")
        self.build()  # its own checks of norm, eps, steps and restarts

    @property
    def id(self) -> str:
        """Name of the attack in column names."""
        return f"{re.sub(r'[^A-Za-z0-9_.=+-]+', '-', self.attack)}_{self.norm}_{self.setting}"

    def build(self) -> Runnable:
        """The attack itself."""
        spec = "autoattack:version=fast" if self.attack == "autoattack-fast" else self.attack
        name, own = parse(spec)
        if "eps" in own:
            raise ValueError(f"a study attacks at its own eps, weak and strong: leave it out of {spec!r}")
        taken = inspect.signature(ATTACKS.find(name)).parameters
        given = {"norm": self.norm, "eps": self.eps, "steps": self.steps, "restarts": self.restarts}
        attack = ATTACKS.build(spec, **{key: given[key] for key in given if key in taken and given[key] is not None})
        if attack.norm.name != self.norm:
            raise ValueError(f"{spec} attacks in {attack.norm.name}, not {self.norm}")
        return attack


@dataclass(frozen=True)
class Sweep:
    """ASR over eps: PGD with `steps` steps at each of the ascending `eps`."""

    norm: str
    eps: tuple[float, ...]
    steps: int

    def __post_init__(self) -> None:
        if not self.eps or list(self.eps) != sorted(set(self.eps)) or self.eps[0] <= 0:
            raise ValueError(f"sweep eps must be positive and ascending, got {list(self.eps)}")


def attacks_at(
    weak: Mapping[str, float], strong: Mapping[str, float], steps: int, restarts: int
) -> tuple[AttackSetting, ...]:
    """FGSM (linf) and PGD (linf, l2), each weak and strong; `weak` and `strong` give eps by norm."""
    return (
        AttackSetting("fgsm", "linf", weak["linf"], 1, 1, "weak"),
        AttackSetting("fgsm", "linf", strong["linf"], 1, 1, "strong"),
        AttackSetting("pgd", "linf", weak["linf"], 10, 1, "weak"),
        AttackSetting("pgd", "linf", strong["linf"], steps, restarts, "strong"),
        AttackSetting("pgd", "l2", weak["l2"], 10, 1, "weak"),
        AttackSetting("pgd", "l2", strong["l2"], steps, restarts, "strong"),
    )


def attacks_dict(attacks: Sequence[AttackSetting], sweep: Sweep) -> dict[str, Any]:
    """What `config.json` says of attacks and sweep."""
    return {
        "attacks": [{"id": attack.id, **asdict(attack)} for attack in attacks],
        "sweep": {"attack": "pgd", **asdict(sweep), "eps": list(sweep.eps)},
    }


@dataclass(frozen=True)
class StudyConfig:
    """A study's options, all of them resolved; `sized` makes one from few words.

    `regularizers`: name to options. The name is a registered one, or any other with the registered one (or the user's
    `module:Name`) as the option "regularizer": so a study can have two strengths of one. `seeds`: one training run each
    for every regularizer. `limit`: measure on so many test images, drawn at random. `trajectory`: after every epoch
    measure the geometry of so many training images, spread over all of them and as they are (0: don't). Raises
    ValueError for anything unknown, out of range or repeated.
    """

    dataset: str
    model: str
    recipe: Recipe
    seeds: tuple[int, ...]
    attacks: tuple[AttackSetting, ...]
    sweep: Sweep
    regularizers: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {name: {} for name in PAPER})
    limit: int | None = None
    data_root: str | None = None
    trajectory: int = 0

    def __post_init__(self) -> None:
        data_set(self.dataset)  # raises for one that does not exist
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different numbers of at least 0, got {list(self.seeds)}")
        if not self.regularizers:
            raise ValueError("a study needs at least one regularizer")
        resolved = {}
        for name, options in self.regularizers.items():
            check_name("regularizer", name)
            source = {"regularizer": options["regularizer"]} if "regularizer" in options else {}
            resolved[name] = {**source, **built(name, options).options}
        object.__setattr__(self, "regularizers", resolved)
        ids = [attack.id for attack in self.attacks]
        if len(set(ids)) != len(ids):
            raise ValueError(f"attacks must differ in attack, norm or setting, got {', '.join(ids)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if self.trajectory < 0:
            raise ValueError(f"trajectory must be at least 0, got {self.trajectory}")

    def as_dict(self) -> dict[str, Any]:
        """What `config.json` says about the experiment (docs/reference/files.md)."""
        return {
            "version": VERSION,
            "dataset": self.dataset,
            "data_root": self.data_root,
            "model": self.model,
            "epochs": self.recipe.epochs,
            "recipe": self.recipe.as_dict(),
            "seeds": list(self.seeds),
            "regularizers": {name: dict(params) for name, params in self.regularizers.items()},
            **attacks_dict(self.attacks, self.sweep),
            "limit": self.limit,
            "trajectory": self.trajectory,
        }

    @classmethod
    def read(cls, run_dir: str | Path) -> StudyConfig:
        """The configuration of the study in `run_dir`. Raises MissingInput, or InputError for a damaged file."""
        path = Path(run_dir) / "config.json"
        stored = read_json(path)
        try:
            return cls(
                dataset=stored["dataset"],
                data_root=stored["data_root"],
                model=stored["model"],
                recipe=stored_recipe(stored["recipe"]),
                regularizers=stored["regularizers"],
                seeds=tuple(stored["seeds"]),
                attacks=tuple(
                    AttackSetting(**{key: value for key, value in attack.items() if key != "id"})
                    for attack in stored["attacks"]
                ),
                sweep=Sweep(stored["sweep"]["norm"], tuple(stored["sweep"]["eps"]), stored["sweep"]["steps"]),
                limit=stored["limit"],
                trajectory=stored["trajectory"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged: {type(error).__name__} {error}") from error


def default_workers(dataset: str) -> int:
    """A process a core (four at most) for 8×8 images, which leave a second thread idle most of the time; else one."""
    return min(cores(), 4) if data_set(dataset).embedded else 1


@dataclass(frozen=True)
class _Size:
    share: float  # of the full number of epochs
    seeds: int
    steps: int  # of the strong attacks
    restarts: int
    sweep_steps: int
    limit: int | None  # test images


@dataclass(frozen=True)
class Kind:
    """What suits a kind of images: model, and eps by norm."""

    model: str
    weak: Mapping[str, float]
    strong: Mapping[str, float]
    sweep: tuple[float, ...]


_SIZES = {
    "full": _Size(1, 3, 40, 2, 10, None),
    "small": _Size(0.5, 2, 20, 1, 10, 256),
    "smoke": _Size(0.1, 1, 10, 1, 5, 96),
}
SIZES = tuple(_SIZES)

_DIGITS = Kind(
    "small-cnn",
    {"linf": 0.03, "l2": 0.15},
    {"linf": 0.06, "l2": 0.3},
    (0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.09, 0.12),
)
_PHOTOGRAPHS = Kind(
    "resnet20",
    {"linf": 1 / 255, "l2": 0.1},
    {"linf": 4 / 255, "l2": 0.5},
    tuple(eighth / 8 / 255 for eighth in (1, 2, 4, 8, 12, 16, 24, 32)),
)


def kind_of(dataset: str | None) -> Kind:
    """What suits the images of `dataset`: digits where it is embedded, else photographs."""
    return _DIGITS if dataset is not None and data_set(dataset).embedded else _PHOTOGRAPHS


def sized(
    size: str, dataset: str = "noisy-digits", *, recipe: str | Recipe | None = None, **options: Any
) -> StudyConfig:
    """The study of one of `SIZES` on `dataset`, with `options` (fields of `StudyConfig`) in the place of its own.

    full: 3 seeds, all test images. small: half the epochs, 2 seeds, 256 images. smoke: a tenth of the epochs, 1 seed,
    96 images; it shows that everything works, and nothing about regularizers. Model, recipe and eps suit the data set:
    8×8 digits (what is embedded), or photographs (ResNet-20, for imagefolder ResNet-18). `recipe`: `name:option=value`;
    its epochs are the size's share too, unless they are among the options.
    """
    if size not in _SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    chosen, found, kind = _SIZES[size], data_set(dataset), kind_of(dataset)
    defaults: dict[str, Any] = {
        "dataset": dataset,
        "model": found.network or kind.model,
        "recipe": recipe if isinstance(recipe, Recipe) else _recipe(recipe or found.recipe, chosen.share),
        "seeds": tuple(range(chosen.seeds)),
        "attacks": attacks_at(kind.weak, kind.strong, chosen.steps, chosen.restarts),
        "sweep": Sweep("linf", kind.sweep, chosen.sweep_steps),
        "limit": chosen.limit,
    }
    return StudyConfig(**{**defaults, **options})


def _recipe(spec: str, share: float) -> Recipe:
    recipe = RECIPES.build(spec)
    return recipe if "epochs" in parse(spec)[1] else replace(recipe, epochs=max(1, round(recipe.epochs * share)))
