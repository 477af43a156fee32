"""What a part of the paper is: its settings, what it computes, the columns of its file, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from regfast.data import ImageSet
from regfast.evaluation.summary import eps_text
from regfast.paper.outputs import Outputs
from regfast.paper.results import Paper
from regfast.report.claims import Verdict
from regfast.report.drawing import Drawing
from regfast.report.results import NORMS
from regfast.report.study_figures import alphas
from regfast.study import AttackSetting, StudyConfig

Array = NDArray[Any]
Columns = Mapping[str, Array]
Rows = list[dict[str, Any]]


MANY = 100  # classes that a solver for each of them can take


class Main(Protocol):
    """What parts without training need to know of the main study, or of a measurement."""

    @property
    def attacks(self) -> tuple[AttackSetting, ...]:
        """What was tried on every model."""
        ...


@dataclass(frozen=True)
class Given:
    """What the settings of a part follow from: the main study, the run's size, and the class that is drawn.

    `classes`: K of a measurement; 0 in a paper run, whose classes are few.
    """

    main: Main
    label: int
    images: int  # in a plane
    steps: int  # of the attacks beside the studies
    scales: int
    radii: int
    classes: int = 0

    @property
    def many(self) -> bool:
        """Whether some of the classes must stand for all where each takes its own solver."""
        return self.classes > MANY

    def pgd(self, setting: str) -> AttackSetting:
        """The main study's PGD, "weak" or "strong"."""
        return next(a for a in self.main.attacks if a.attack == "pgd" and a.setting == setting)

    @property
    def attack(self) -> dict[str, Any]:
        """Norm and steps of the attacks beside the studies."""
        return {"norm": self.pgd("strong").norm, "steps": self.steps}


@dataclass(frozen=True)
class Work:
    """What a part may use while it computes: its settings, the main study and its data, and the progress.

    `train`: the training images, None where a measurement has none; `num_classes`: K.
    """

    settings: Mapping[str, Any]
    main: Main
    train: ImageSet | None
    num_classes: int
    device: torch.device
    advance: Callable[..., None]  # of one step, or a part of it
    regularizer: str = ""
    seed: int = 0
    bias: bool = False
    samples: Path = Path()  # the model's own samples.parquet, for `of_model`


class Part:
    """One part of a paper run: a file `<name>.parquet`, and the figures that are drawn from it.

    Subclasses override those of the `of_…` methods that they need; each gives columns, one row as `row` says. Where
    `named` is true, what they give gets `regularizer` and `seed` as first columns (`of_seed`: `seed` alone).

    Attributes:
        name: of the file, of the settings in `config.json` and of the page's figures.
        row: what one row of the file is.
        columns: of the file, each with what it holds ("" where its name says it). The first ones are those of `named`.
        section: id of the page's section, see page.py.
        attacks: whether `of_model` and `of_seed` attack images, or ask which were flipped: they get those alone that a
            measurement attacks.
    """

    name: ClassVar[str]
    row: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]
    section: ClassVar[str] = "beyond"
    named: ClassVar[bool] = True
    attacks: ClassVar[bool] = False

    def settings(self, given: Given) -> dict[str, Any]:
        """What `config.json` holds for this part; all of it is ours, and the page says so."""
        return {}

    def check(self, settings: Mapping[str, Any], main: StudyConfig) -> None:
        """Raises ValueError for settings that the data cannot serve; called before anything is computed or written."""

    def of_run(self, work: Work) -> Columns:
        """What no model is needed for; computed once."""
        raise NotImplementedError

    def of_plane(self, work: Work) -> Columns:
        """Of one regularizer, with or without bias; trains a model of its own."""
        raise NotImplementedError

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        """Of one trained model of the main study."""
        raise NotImplementedError

    def of_seed(self, work: Work, models: Mapping[str, Outputs]) -> Columns:
        """Of the main study's models of one seed, by regularizer."""
        raise NotImplementedError

    def of_measured(self, work: Work, outputs: Outputs) -> Columns:
        """Of one network of a measurement that has training images, where `of_study` takes it from a study's files."""
        raise NotImplementedError

    def of_study(self, study_dir: Path) -> Columns:
        """From the main study's own result files."""
        raise NotImplementedError

    def steps(self, settings: Mapping[str, Any]) -> int:
        """How often a call of an `of_…` method calls `work.advance`; only those that take long do."""
        return 0

    def combined(self, table: Columns) -> Columns:
        """The whole table, made of the rows of all models."""
        return table

    def figures(self, paper: Paper) -> list[Drawing]:
        """What the page shows of the file."""
        raise NotImplementedError

    def verdicts(self, paper: Paper) -> list[Verdict]:
        """Verdicts on claims that are not the paper's; most parts have none."""
        return []

    def has(self, method: str) -> bool:
        """Whether this part overrides one of the `of_…` methods."""
        return getattr(type(self), method) is not getattr(Part, method)


def as_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, Array]:
    """Rows with the same keys, turned into columns."""
    listed = list(rows)
    return {name: np.array([row[name] for row in listed]) for name in listed[0]}


def named_columns(columns: Columns, whose: Mapping[str, Any]) -> Columns:
    """The columns after constant ones that say what they belong to."""
    count = len(next(iter(columns.values())))
    first: dict[str, Array] = {name: np.full(count, value) for name, value in whose.items()}
    return {**first, **columns}


def geometric(low: float, high: float, count: int) -> list[float]:
    """`count` (odd) factors around 1, each a fixed factor from the last; the middle one is 1 exactly."""
    values = np.geomspace(low, high, count)
    values[count // 2] = 1.0
    return [float(f"{value:.6g}") for value in values]


def behind(table: Columns) -> dict[str, list[Any]]:
    """A table as the numbers behind a figure."""
    return {name: values.tolist() for name, values in table.items()}


def settings_text(paper: Paper, part: str) -> str:
    """The settings of a part in words; nothing where the run names none."""
    given = paper.config.get(part) or {}
    strengths = [alphas(paper.main.config)] if part == "planes" else []
    said = (
        _SAID.get(key, f"{key.replace('_', ' ')} = {{}}").format(_value(value, key)) for key, value in given.items()
    )
    return "; ".join([*strengths, *said]) + "." if given else ""


def ours(paper: Paper, part: str) -> str:
    """The settings of a part as a figure says them."""
    settings = settings_text(paper, part)
    return f"Ours: {settings}" if settings else ""


# Settings of the parts as a reader says them; any other is "name = value".
_SAID = {
    "attack": "{}", "dataset": "{}", "model": "{}", "norm": "{}", "eps": "ε = {}", "label": "class {}",
    "seed": "seed {}", "images": "{} images", "steps": "{} steps", "epochs": "{} epochs", "bins": "{} bins",
    "resamples": "{} resamples",
}  # fmt: skip


def _value(value: Any, key: str = "") -> str:
    """A setting in words; a long list by its ends."""
    if not isinstance(value, (list, tuple)):
        if key == "eps" and isinstance(value, float):
            return eps_text(value)
        return f"{value:g}" if isinstance(value, float) else NORMS.get(str(value), str(value))
    if len(value) > 4:
        return f"{_value(value[0], key)} … {_value(value[-1], key)} ({len(value)} values)"
    return ", ".join(_value(one, key) for one in value)
