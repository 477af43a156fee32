"""Image sets: map-style data sets of images in [0, 1] that also hand out whole batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from regfast.data.class_map import ClassMap

Transform = Callable[[Any], Tensor]


class ImageSet(Protocol):
    """Images with labels: `len(s)`, `s[i] -> (image, label)` and `s.batch(indices)`."""

    classes: tuple[str, ...]

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        """Image (C, H, W) float32 in [0, 1] and its label."""
        ...

    def batch(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 in [0, 1] at `indices` (B,) int64."""
        ...


class ImageArray:
    """Images held in memory: (N, C, H, W), uint8 or float32 in [0, 1], with labels (N,) int64 in [0, K).

    Raises ValueError or TypeError for shapes, types, labels and pixels that do not fit.
    """

    def __init__(self, images: Tensor, labels: Tensor, classes: Sequence[str], name: str = "images"):
        if images.dim() != 4:
            raise ValueError(f"{name}: images must be (N, C, H, W), got shape {tuple(images.shape)}")
        if images.dtype not in (torch.uint8, torch.float32):
            raise TypeError(f"{name}: images must be uint8 or float32, got {images.dtype}")
        if images.dtype == torch.float32 and len(images):
            low, high = float(images.min()), float(images.max())
            if not (low >= 0 and high <= 1):  # also false for NaN
                raise ValueError(f"{name}: float images must lie in [0, 1], got values in [{low:g}, {high:g}]")
        self.images = images
        self.labels = check_labels(labels, len(images), len(classes), name)
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return unit(self.images[index]), int(self.labels[index])

    def batch(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 in [0, 1] at `indices` (B,) int64."""
        return unit(self.images[indices])


class ImageFiles:
    """Images read from files when asked for: a torchvision `ImageFolder`, each image made a tensor by `transform`.

    `class_map` gives each class folder another label than its place among the folders: the class that it is to a model
    (`map_classes`). `classes` then names all numbers up to the largest, those without a name by themselves.
    """

    def __init__(self, folder: Any, transform: Transform, class_map: ClassMap | None = None):
        self.folder = folder
        self.transform = transform
        self.class_map = class_map
        numbers = folder.class_to_idx if class_map is None else class_map.numbers
        names = {number: name for name, number in numbers.items()} if class_map is None else class_map.names
        label_of = torch.tensor([numbers[name] for name in folder.classes], dtype=torch.int64)
        self.labels = label_of[torch.tensor(folder.targets, dtype=torch.int64)]
        self.classes: tuple[str, ...] = tuple(names.get(label, str(label)) for label in range(max(names) + 1))

    @property
    def preprocess(self) -> str:
        """What `transform` does, in words."""
        said = str(self.transform)
        plain = " at 0x" in said  # an object that does not say what it is
        return getattr(self.transform, "__name__", type(self.transform).__name__) if plain else " ".join(said.split())

    def mapped(self, class_map: ClassMap) -> ImageFiles:
        """The same images with the labels of `class_map`."""
        return ImageFiles(self.folder, self.transform, class_map)

    def transformed(self, transform: Transform) -> ImageFiles:
        """The same images made tensors by another `transform`."""
        return ImageFiles(self.folder, transform, self.class_map)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        path = self.folder.samples[index][0]
        try:
            image = self.folder.loader(path)
        except Exception as error:
            raise ValueError(f"image {path} cannot be read: {error}") from error
        return self.transform(image), int(self.labels[index])

    def batch(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 in [0, 1] at `indices` (B,) int64."""
        return torch.stack([self[int(index)][0] for index in indices])


class Subset:
    """The images of `whole` at `indices` (N,) int64, in that order."""

    def __init__(self, whole: ImageSet, indices: Tensor):
        self.whole = whole
        self.indices = indices
        self.labels = whole.labels[indices]
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return self.whole[int(self.indices[index])]

    def batch(self, indices: Tensor) -> Tensor:
        """Images (B, C, H, W) float32 in [0, 1] at `indices` (B,) int64 of this subset."""
        return self.whole.batch(self.indices[indices])


def some(images: ImageSet, count: int) -> ImageSet:
    """At most `count` of the images, spread over all of them: a set may be sorted by class."""
    if len(images) <= count:
        return images
    return Subset(images, torch.linspace(0, len(images) - 1, count).long())


@dataclass(frozen=True)
class Splits:
    """A data set for a study: to train on, to choose temperatures on (held out of training), to measure on."""

    name: str
    train: ImageSet
    holdout: ImageSet
    test: ImageSet

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.test.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the first test image."""
        channels, height, width = self.test[0][0].shape
        return channels, height, width

    def limited(self, limit: int | None) -> Splits:
        """With `limit` test images, those that `regfast evaluate --limit` takes with seed 0; with None all of them."""
        if limit is None:
            return self
        return replace(self, test=Subset(self.test, torch.tensor(pick_samples(len(self.test), limit, seed=0))))


def pick_samples(size: int, limit: int | None, seed: int) -> list[int]:
    """The sample ids of a run: all of them, or the first `limit` of a shuffle that depends on `seed` alone.

    Raises:
        ValueError: if `limit` is negative.
    """
    if limit is None or limit >= size:
        return list(range(size))
    if limit < 0:
        raise ValueError(f"limit must be at least 0, got {limit}")
    return sorted(np.random.default_rng(seed).permutation(size)[:limit].tolist())


def stratified(labels: Tensor, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Disjoint index sets of the given `sizes` with the class proportions of `labels` (N,), drawn from `seed` alone.

    Each class is shuffled and laid out evenly over [0, 1); the sets are consecutive pieces of that order, so their
    class counts differ from exact proportion by at most one.
    """
    if sum(sizes) > len(labels):
        raise ValueError(f"cannot draw sets of {list(sizes)} from {len(labels)} images")
    generator = torch.Generator().manual_seed(seed)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        place[members] = (order.double() + offset) / len(members)
    return [piece.sort().values for piece in place.argsort()[: sum(sizes)].split(list(sizes))]


def check_labels(labels: Tensor, count: int, num_classes: int, name: str) -> Tensor:
    """`labels` as int64 (N,), or an error that says what is wrong with them."""
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name}: labels must be integers, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(f"{name}: labels must be ({count},), one an image, got shape {tuple(labels.shape)}")
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise ValueError(f"{name}: label {int(labels[first])} of image {first} is outside [0, {num_classes})")
    return labels.to(torch.int64)


def unit(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; others as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images
