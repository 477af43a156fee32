"""Batches of an image set on a device: from memory, or read by worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from regfast.data.images import ImageArray, ImageFiles, ImageSet, Subset, Transform, unit
from regfast.models import Preprocess
from regfast.runs.workers import cores

__all__ = ["Batches", "for_training", "transformed"]

_MOST_WORKERS = 16
_ENDING = (signal.SIGINT, signal.SIGTERM)


class Batches:
    """Batches of `images` on `device`; as they are stored, uint8 or float32 in [0, 1].

    What is held in memory moves to the device once. The rest is read by worker processes, as many as this process has
    cores for (none in a worker of ours), a few batches ahead.

    Attributes:
        labels: (N,) int64, on `device`.
        in_memory, files: whether the images are held in memory, or are image files.
    """

    def __init__(self, images: ImageSet, device: torch.device):
        self.labels = images.labels.to(device)
        self._images, self._device = images, device
        whole, chosen = _unfolded(images)
        self.in_memory, self.files = isinstance(whole, ImageArray), isinstance(whole, ImageFiles)
        if isinstance(whole, ImageArray):
            if device.type != "cpu":
                self._pixels, chosen = whole.images[chosen].to(device), torch.arange(len(chosen))
            else:
                self._pixels = whole.images
            self._chosen = chosen.to(device)

    def pixels(self, batches: Sequence[Tensor], seed: int = 0) -> Iterator[Tensor]:
        """Images (B, C, H, W) at each of `batches`, indices (B,) int64. `seed`: of transforms that draw at random.

        Raises ValueError for an image that cannot be read.
        """
        if self.in_memory:
            for indices in batches:
                yield self._pixels[self._chosen[indices.to(self._device)]]
            return
        loader: DataLoader[Any] = DataLoader(
            _Seeded(self._images, seed),  # type: ignore[arg-type]  # map-style by its methods
            batch_sampler=[indices.tolist() for indices in batches],
            num_workers=min(_workers(), len(batches)),
            collate_fn=_stack,
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator(),  # of seeds that nothing uses; the default one is the caller's
        )
        with _signals_wait():
            started = iter(loader)
        for pixels in started:
            if isinstance(pixels, Exception):
                raise pixels
            yield pixels.to(self._device, non_blocking=True)

    def images(self, batches: Sequence[Tensor], seed: int = 0) -> Iterator[Tensor]:
        """As `pixels`, float32 in [0, 1]."""
        return map(unit, self.pixels(batches, seed))


def transformed(images: ImageSet, transform: Transform) -> ImageSet:
    """Image files with `transform` in the place of their own; others unchanged."""
    whole, chosen = _unfolded(images)
    return Subset(whole.transformed(transform), chosen) if isinstance(whole, ImageFiles) else images


def for_training(images: ImageSet) -> ImageSet:
    """Image files with torchvision's RandomResizedCrop and flip in the place of their transform; others unchanged."""
    whole, _ = _unfolded(images)
    if not isinstance(whole, ImageFiles):
        return images
    from regfast.models._torchvision import torchvision

    v2 = torchvision.transforms.v2
    shape = whole[0][0].shape[-2:]
    known = whole.transform.interpolation if isinstance(whole.transform, Preprocess) else "bilinear"
    crop = v2.RandomResizedCrop(tuple(shape), interpolation=torchvision.transforms.InterpolationMode(known))
    return transformed(images, v2.Compose([crop, v2.RandomHorizontalFlip(), v2.PILToTensor()]))


class _Seeded:
    """Single images; an error is handed on, since the loader would bury it in a traceback of its own."""

    def __init__(self, images: ImageSet, seed: int):
        self._images, self._seed = images, seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor | Exception:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((self._seed + index) % 2**63)
            try:
                return self._images[index][0]
            except Exception as error:  # a user's data set can raise anything
                return error


def _stack(images: list[Tensor | Exception]) -> Tensor | Exception:
    failed = next((image for image in images if isinstance(image, Exception)), None)
    return torch.stack(images) if failed is None else failed  # type: ignore[arg-type]


def _unfolded(images: ImageSet) -> tuple[ImageSet, Tensor]:
    """The set that subsets were taken of, and the places in it."""
    chosen, whole = torch.arange(len(images)), images
    while isinstance(whole, Subset):
        chosen = whole.indices[chosen]
        whole = whole.whole
    return whole, chosen


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A signal that comes inside is answered at the end: what a handler raises during a fork, Python drops."""
    main = threading.current_thread() is threading.main_thread()  # where handlers run
    waiting = {number for number in _ENDING if main and signal.getsignal(number) is not None}
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in waiting}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came:
            signal.raise_signal(each)


def _workers() -> int:
    if multiprocessing.current_process().daemon:  # which may have no children
        return 0
    return min(max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))), _MOST_WORKERS)
