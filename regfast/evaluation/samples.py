"""Samples as an attack needs them: images in [0, 1] with labels in range, and a reason for each that is not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from regfast.attacks.classifier import ROUNDING

__all__ = [
    "OK",
    "Dataset",
    "LoadedChunk",
    "image_shape",
    "load_chunk",
    "pixel_hash",
    "read_pixels",
    "spread",
]

OK = "ok"
_LOOKED_AT = 9  # samples that decide which shape images have


class Dataset(Protocol):
    """A map-style dataset, as torch.utils.data knows it: `len(d)` and `d[i] -> (image, label)`."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Image (C, H, W), float in [0, 1] or uint8, and its label."""
        ...


class LoadedChunk:
    """The samples of one chunk.

    Attributes:
        samples: (n,) int64 ids of all samples of the chunk.
        labels: (n,) int64, -1 where the label could not be read.
        status: n strings, "ok" or why the sample cannot be attacked.
        images: (m, C, H, W) float32 in [0, 1], of the m samples with status "ok", in order.
        pixels: n hashes of these images and their labels, "" for the samples that cannot be attacked.
    """

    def __init__(self, samples: Sequence[int], labels: list[int], status: list[str], images: list[Tensor]) -> None:
        self.samples = torch.tensor(samples, dtype=torch.int64)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.status = status
        usable = iter(images)
        self.pixels = [
            pixel_hash(next(usable), label) if reason == OK else ""
            for label, reason in zip(labels, status, strict=True)
        ]
        self.images = torch.stack(images) if images else torch.empty(0, 3, 1, 1)

    def without(self, which: Tensor, reason: str) -> LoadedChunk:
        """The same chunk in which the usable samples among `which` (n,) bool are not usable, for `reason`."""
        keep = (~which)[self.usable]
        status = [
            reason if gone and said == OK else said for gone, said in zip(which.tolist(), self.status, strict=True)
        ]
        return LoadedChunk(self.samples.tolist(), self.labels.tolist(), status, list(self.images[keep]))

    @property
    def usable(self) -> Tensor:
        """(n,) bool: status is "ok"."""
        return torch.tensor([status == OK for status in self.status], dtype=torch.bool)


def pixel_hash(image: Tensor, label: int) -> str:
    """16 hexadecimal digits that decide whether two samples are the same."""
    digest = hashlib.blake2b(f"{image.dtype} {tuple(image.shape)} {label}".encode(), digest_size=8)
    digest.update(image.contiguous().numpy().data)
    return digest.hexdigest()


def spread(samples: Sequence[int], count: int) -> list[int]:
    """At most `count` of `samples`, spread over all of them, the first and the last among them."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int)
    return [int(samples[place]) for place in places]


def image_shape(dataset: Dataset, samples: Sequence[int]) -> tuple[int, ...] | None:
    """The shape (C, H, W) that all images are held to, None if none of `samples` can be read.

    It is what most of a few of them have, spread over all; where those cannot be read, the first that can.
    """
    for some in (spread(samples, _LOOKED_AT), samples):
        shapes: Counter[tuple[int, ...]] = Counter()
        for sample in some:
            image, _, reason = _load(dataset, sample, None)
            if image is not None and reason == OK:
                shapes[tuple(image.shape)] += 1
                if some is samples:
                    break
        if shapes:
            return shapes.most_common(1)[0][0]
    return None


def read_pixels(dataset: Dataset, samples: Sequence[int]) -> dict[int, str]:
    """`pixel_hash` of those of `samples` that can be read as images with a label."""
    loaded = ((sample, *_load(dataset, sample, None)) for sample in samples)
    return {sample: pixel_hash(image, label) for sample, image, label, reason in loaded if image is not None}


def load_chunk(
    dataset: Dataset, samples: Sequence[int], num_classes: int, shape: tuple[int, ...] | None, *, threads: int = 4
) -> LoadedChunk:
    """Load `samples`; one that cannot be used is named in `status` and holds nobody up.

    A sample is unusable when reading it raises, when its pixels are not finite or lie outside [0, 1], when its shape is
    not `shape`, or when its label is not in [0, num_classes).
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        loaded = list(pool.map(lambda sample: _load(dataset, sample, num_classes), samples))
    labels, status, images = [], [], []
    for image, label, reason in loaded:
        if image is not None and tuple(image.shape) != shape:
            reason = f"shape {tuple(image.shape)} differs from {shape}"
            image = None
        if image is not None:
            images.append(image)
        labels.append(label)
        status.append(reason)
    return LoadedChunk(samples, labels, status, images)


def _load(dataset: Dataset, sample: int, num_classes: int | None) -> tuple[Tensor | None, int, str]:
    try:
        image, label = dataset[sample]
        return _checked(image, label, num_classes)
    except Exception as error:  # any decoder error: the row says which, the run goes on
        reason = f"unreadable: {type(error).__name__}: {error}"
        return None, -1, reason.encode("utf-8", "backslashreplace").decode()[:300]  # names of files may be no UTF-8


def _checked(read: Any, label: Any, num_classes: int | None) -> tuple[Tensor | None, int, str]:
    image = read if isinstance(read, Tensor) else torch.as_tensor(np.asarray(read))
    label = int(label)
    if image.dtype == torch.uint8:
        image = image.float() / 255
    kept = -1 if abs(label) >= 2**63 else label
    if image.ndim != 3 or not image.is_floating_point() or not image.numel():
        return None, kept, f"not an image: shape {tuple(image.shape)}, {image.dtype}"
    if not bool(torch.isfinite(image).all()):
        return None, kept, "pixels are not finite"
    low, high = image.min().item(), image.max().item()
    if low < -ROUNDING or high > 1 + ROUNDING:
        return None, kept, f"pixels in [{low:.3g}, {high:.3g}], outside [0, 1]: normalized data?"
    if kept != label or (num_classes is not None and not 0 <= label < num_classes):
        return None, kept, f"label {label} is outside [0, {'2^63' if num_classes is None else num_classes})"
    return image.float().clamp(0, 1), label, OK
