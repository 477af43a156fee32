"""The images of a measurement: what each network sees of them, and which are measured, attacked, or held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from regfast.data import DATASETS, ImageFiles, ImageSet, load_images, load_training, map_classes
from regfast.data.images import check_labels, pick_samples, stratified
from regfast.measurement.networks import Network
from regfast.runs.errors import InputError, user_input

SPLIT_SEED = 2410
_HELD = 5000  # images at most that temperatures are fitted on


class Division(NamedTuple):
    """Ids of images, int64: disjoint sets with the class proportions of all."""

    attacked: Tensor  # measured, and attacked too
    others: Tensor  # measured only
    holdout: Tensor  # what temperatures are fitted on

    @property
    def measured(self) -> Tensor:
        """All that are measured, those that are attacked first."""
        return torch.cat([self.attacked, self.others])


def divide(labels: Tensor, limit: int | None, attacked: int | None, holdout: float) -> Division:
    """Of images with `labels` (N,): `limit` are used, the share `holdout` of those held out, `attacked` attacked.

    None: all. The same division every time; `limit` takes the images that `regfast evaluate --limit` takes with seed 0.
    Raises InputError where nothing would be left to measure, or to hold out.
    """
    used = torch.tensor(pick_samples(len(labels), limit, seed=0))
    held = max(1, min(round(len(used) * holdout), _HELD))
    measured = len(used) - held
    if measured < 1:
        raise InputError(f"{len(used)} images are too few: {held} are held out to fit temperatures on, none is left")
    hit = measured if attacked is None else min(attacked, measured)
    return Division(*(used[part] for part in stratified(labels[used], (hit, measured - hit, held), SPLIT_SEED)))


@dataclass(frozen=True)
class Images:
    """What is measured on.

    Attributes:
        name: of the data set.
        of: per network its images, all with the same labels in the same order; preprocessing may differ.
        train: per network its training images, or nothing.
        notes: lines for the user.
        root: where they lie, in words.
    """

    name: str
    of: Mapping[str, ImageSet]
    train: Mapping[str, ImageSet]
    notes: Sequence[str] = ()
    root: str | None = None

    @property
    def any(self) -> ImageSet:
        """The images as the first network sees them."""
        return next(iter(self.of.values()))

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        return self.any.labels

    @property
    def classes(self) -> tuple[str, ...]:
        """K names."""
        return self.any.classes


def open_images(
    dataset: str,
    root: Path | None,
    networks: Sequence[Network],
    *,
    train_root: Path | None = None,
    class_map: str | None = None,
    download: bool = False,
) -> Images:
    """The data set `dataset` as each network sees it. Raises ValueError, FileNotFoundError or ImportError."""
    if class_map is not None and dataset != "imagefolder":
        raise InputError(f"class_map is for imagefolder, whose folders have names; {dataset} numbers its classes")
    notes: list[str] = []

    def seen(network: Network, load: Any, where: Path | None) -> ImageSet:
        transform = {"transform": network.preprocess} if dataset == "imagefolder" else {}
        found: ImageSet = load(dataset, where, download=download, **transform)
        if not isinstance(found, ImageFiles):
            return found
        try:
            chosen = map_classes(found.classes, network.num_classes, class_map)
        except ValueError as error:
            raise InputError(f"network {network.name}: {error}") from error
        notes.append(f"{network.name}: {found.preprocess}; {chosen.source}")
        return found.mapped(chosen)

    images: dict[str, ImageSet] = {}
    for network in networks:
        alike = next(
            (other for other in networks if other.name in images and other.preprocess == network.preprocess), None
        )
        images[network.name] = images[alike.name] if alike else seen(network, load_images, root)
        if alike and isinstance(images[network.name], ImageFiles):
            notes.append(f"{network.name}: as {alike.name}")
    train = {}
    if train_root is not None:
        told = len(notes)
        train = {network.name: seen(network, load_training, train_root) for network in networks}
        del notes[told:]  # as the images that are measured
    elif DATASETS.build(dataset).embedded:
        train = dict.fromkeys(images, load_training(dataset))
    return Images(dataset, images, train, notes, None if root is None else str(root))


def for_all(argument: str, dataset: Any, names: Sequence[str]) -> dict[str, ImageSet]:
    """Per network its images: `dataset` for all of them, or what it maps their names to; errors as of `as_images`."""
    if not isinstance(dataset, Mapping):
        return dict.fromkeys(names, as_images(argument, dataset))
    missing = [name for name in names if name not in dataset]
    if missing:
        raise InputError(f"{argument} lacks images for network {missing[0]}; it has {', '.join(map(str, dataset))}")
    return {name: as_images(argument, dataset[name]) for name in names}


class Items:
    """Any map-style data set, `dataset[i] -> (image, label)`, as an `ImageSet`; images in [0, 1], or uint8."""

    def __init__(self, dataset: Any, labels: Tensor, classes: Sequence[str]):
        self.dataset, self.labels, self.classes = dataset, labels, tuple(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        image = torch.as_tensor(self.dataset[index][0])
        return (image.float() / 255 if image.dtype == torch.uint8 else image.float()), int(self.labels[index])

    def batch(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 in [0, 1] at `indices` (B,) int64."""
        return torch.stack([self[int(index)][0] for index in indices])


def as_images(argument: str, dataset: Any) -> ImageSet:
    """`dataset` as an `ImageSet`. Labels are taken from its `labels` or `targets`, or read one by one.

    Raises TypeError for what is no map-style data set, ValueError for an empty one.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(f"{argument} must be a map-style data set, dataset[i] -> (image, label), got {dataset!r}")
    if not len(dataset):
        raise ValueError(f"{argument} holds no images")
    if hasattr(dataset, "batch") and hasattr(dataset, "labels") and hasattr(dataset, "classes"):
        whole: ImageSet = dataset
        return whole
    labels = next((getattr(dataset, name) for name in ("labels", "targets") if hasattr(dataset, name)), None)
    if labels is None or len(labels) != len(dataset):
        labels = [int(dataset[index][1]) for index in range(len(dataset))]
    numbers = torch.as_tensor(np.asarray(labels))
    classes = getattr(dataset, "classes", None) or range(int(numbers.max()) + 1)
    return Items(dataset, check_labels(numbers, len(dataset), len(classes), argument), [str(name) for name in classes])


def check_images(images: Images, networks: Sequence[Network], some_classes: bool) -> None:
    """Every network takes its images and tells their classes apart. Raises InputError that names the network."""
    count, classes = len(images.labels), len(images.classes)
    for network in networks:
        own = images.of[network.name]
        if not torch.equal(own.labels, images.labels):
            raise InputError(f"network {network.name}: its images have other labels than those of {networks[0].name}")
        known = network.num_classes
        if classes > known or (classes < known and not some_classes):
            raise InputError(
                f"network {network.name} tells {known} classes apart and {images.name} has {classes}: measure it on "
                f"data with its classes{' (--some-classes: on some of them)' if classes < known else ''}"
            )
        shape = own[0][0].shape
        with user_input():
            probe = torch.full((1, *shape), 0.5).to(network.members[0].head.weight.device)
            try:
                with torch.no_grad():
                    unusable = any(bool(member(probe).isnan().any()) for member in network.members)
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                said = str(error).splitlines()[0]
                raise InputError(f"network {network.name} takes no image of shape {tuple(shape)}: {said}") from error
        if unusable:
            raise InputError(f"network {network.name}: its logits are NaN; does its checkpoint hold NaN?")
    there = images.labels.bincount(minlength=classes)
    missing = (there == 0).nonzero().flatten().tolist()
    if missing and not some_classes:
        named = ", ".join(images.classes[label] for label in missing[:5])
        raise InputError(
            f"{images.name}: none of its {count} images is of {len(missing)} of the {classes} classes ({named}"
            f"{' …' if len(missing) > 5 else ''}) that {networks[0].name} tells apart; add some, or measure on the "
            "other classes alone (--some-classes)"
        )
