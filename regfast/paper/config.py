"""What a paper run does: its studies and the settings of every part, as `config.json` and the page list them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from regfast.data import data_set
from regfast.paper.parts import PARTS, Given
from regfast.study import AttackSetting, StudyConfig, named_regularizers, sized

VERSION = 3  # of the result files; a run of another version is not continued

DIGITS = (("noisy-digits", "small-cnn"), ("digits", "small-cnn"), ("noisy-digits", "resnet20"))
# Training images at most whose geometry the main study measures after every epoch: of photographs, of digits.
_WATCHED, _WATCHED_DIGITS = 5000, 600
# At most, of the embedded studies beside the main one: they took half of a run.
_BESIDE_IMAGES, _BESIDE_EPOCHS = 96, 15
_LIMIT = 1000  # test images of photographs: AutoAttack on all of them takes hours without a GPU


# Images in a plane, steps of the attacks beside the studies, and points of two curves.
_SIZES = {
    "full": {"images": 448, "steps": 40, "scales": 41, "radii": 13},
    "small": {"images": 256, "steps": 20, "scales": 41, "radii": 13},
    "smoke": {"images": 96, "steps": 5, "scales": 9, "radii": 5},
}


@dataclass(frozen=True)
class PaperConfig:
    """The studies of a paper run, the main one first, and per part its settings, all of them ours.

    `parts` has a key for each part of `regfast.paper.parts`. Raises ValueError for no study,
    two in the same folder, or a negative class for the planes.
    """

    studies: tuple[StudyConfig, ...]
    parts: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not self.studies:
            raise ValueError("a paper run needs at least one study")
        folders = [study_folder(study) for study in self.studies]
        if len(set(folders)) != len(folders):
            raise ValueError(f"two studies would share a folder: {', '.join(folders)}")
        if self.parts["planes"]["label"] < 0:
            raise ValueError(f"label must be at least 0, got {self.parts['planes']['label']}")

    @property
    def main(self) -> StudyConfig:
        """The study that the parts are about."""
        return self.studies[0]

    def as_dict(self) -> dict[str, Any]:
        """What `config.json` says (docs/reference/files.md)."""
        listed = [
            {"folder": study_folder(study), "dataset": study.dataset, "model": study.model} for study in self.studies
        ]
        parts = {name: dict(settings) for name, settings in self.parts.items()}
        return {"kind": "paper", "version": VERSION, "studies": listed, **parts}


def study_folder(study: StudyConfig) -> str:
    """Where a study lies inside the run: `studies/noisy-digits-small-cnn`."""
    name = f"{study.dataset}-{study.model}"
    return "studies/" + "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def paper_config(
    size: str = "full",
    datasets: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    *,
    data_root: str | None = None,
    label: int = 3,
    recipe: str | None = None,
    epochs: int | None = None,
    seeds: Sequence[int] | None = None,
    regularizers: Sequence[str] | None = None,
    limit: int | None = None,
) -> PaperConfig:
    """The paper run of one of the studies' sizes on every data set with every model; the first of each is the main one.

    Without `datasets` and `models`: noisy digits and clean digits with the small CNN, noisy digits with a ResNet-20
    (smoke: the first two), at most two seeds, 15 epochs and 96 test images each beside the main study. `label`: the
    class whose loss and gradients are drawn. `recipe`: as in `sized`. The other options replace the studies' own.
    Photographs are measured on 1,000 test images unless `limit` says otherwise.

    Raises ValueError for names, sizes and values that do not exist or fit.
    """
    own = datasets is None and models is None
    if own:
        pairs: list[tuple[str, str | None]] = [*DIGITS[: 2 if size == "smoke" else 3]]
    else:
        suited: Sequence[str | None] = models or [None]
        pairs = [(dataset, model) for dataset in datasets or ["noisy-digits"] for model in suited]
    studies: list[StudyConfig] = []
    for dataset, model in pairs:
        options: dict[str, Any] = {"data_root": data_root if not data_set(dataset).embedded else None}
        options |= {} if model is None else {"model": model}
        options |= {} if seeds is None else {"seeds": tuple(seeds)}
        options |= {} if regularizers is None else {"regularizers": named_regularizers(regularizers)}
        study = sized(size, dataset, recipe=recipe, **options)
        if not data_set(dataset).embedded and study.limit is None:
            study = replace(study, limit=_LIMIT)
        study = replace(study, attacks=figure_attacks(study.attacks), limit=study.limit if limit is None else limit)
        if epochs is not None:
            study = replace(study, recipe=replace(study.recipe, epochs=epochs))
        if own and studies and seeds is None:
            study = replace(study, seeds=study.seeds[:2])
        if own and studies and limit is None:
            study = replace(study, limit=min(study.limit or _BESIDE_IMAGES, _BESIDE_IMAGES))
        if own and studies and epochs is None and recipe is None:
            study = replace(study, recipe=replace(study.recipe, epochs=min(study.recipe.epochs, _BESIDE_EPOCHS)))
        if not studies:
            study = replace(study, trajectory=_WATCHED_DIGITS if data_set(dataset).embedded else _WATCHED)
        studies.append(study)
    given = Given(studies[0], label, **_SIZES[size])
    return PaperConfig(tuple(studies), {part.name: part.settings(given) for part in PARTS})


def figure_attacks(attacks: Sequence[AttackSetting]) -> tuple[AttackSetting, ...]:
    """The attacks of Fig. 3: FGSM, PGD weak and strong, AutoAttack weak and strong, all linf; eps are those given."""
    kept = {attack.id: attack for attack in attacks}
    weak, strong = (kept[f"pgd_linf_{setting}"] for setting in ("weak", "strong"))
    ensembles = (
        AttackSetting("autoattack-fast", "linf", each.eps, None, None, each.setting) for each in (weak, strong)
    )
    return (kept["fgsm_linf_weak"], weak, strong, *ensembles)
