"""Data sets from files: `.npz` arrays, torchvision's CIFAR10 and CIFAR100, and folders of images as ImageNet's.

Nothing is downloaded unless asked for. What is missing or damaged is named, with the place that was searched.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch

from regfast.data.images import ImageArray, ImageFiles, ImageSet, Splits, Subset, Transform, stratified
from regfast.models.preprocess import Preprocess, as_rgb

SPLIT_SEED = 2410
SHARES = (0.7, 0.1, 0.2)  # of one undivided set: to train, held out, to test
_ARRAYS = ("images", "labels", "classes")
_MOST_CLASSES = 1_000_000  # that labels alone may stand for
_TEST_FOLDERS = ("val", "test")


def npz(path: Path) -> ImageArray:
    """All of one `.npz` file: `images` uint8 (N, H, W, C) or (N, H, W), `labels` integers (N,), optionally `classes`.

    What the file declares is checked before any of it is read.

    Raises FileNotFoundError, or ValueError or TypeError for a file that is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"npz: no file {path}; pass one with arrays `images` and `labels` as the data root")
    with _reading(path), ZipFile(path) as stored:
        names = [name.removesuffix(".npy") for name in stored.namelist()]
        declared = {name: _declared(stored, f"{name}.npy") for name in _ARRAYS if name in names}
    missing = [name for name in _ARRAYS[:2] if name not in declared]
    if missing:
        raise ValueError(f"npz: {path} has no array {' and '.join(missing)}; it has {', '.join(names) or 'none'}")
    _check_declared(path, declared)
    with _reading(path), np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in declared}
    images, labels = arrays["images"], arrays["labels"]
    if int(labels.max()) >= _MOST_CLASSES and "classes" not in arrays:
        raise ValueError(
            f"npz: label {labels.max()} in {path} means {int(labels.max()) + 1} classes: give their names, `classes`, "
            "if there are so many"
        )
    if int(labels.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"npz: label {labels.max()} in {path} is outside the range of int64")
    classes = arrays.get("classes", np.arange(int(labels.max()) + 1)).astype(str).tolist()
    pixels = torch.from_numpy(images[..., None] if images.ndim == 3 else images)
    numbers = torch.from_numpy(labels.astype(np.int64))  # unsigned and big-endian ones too
    return ImageArray(pixels.permute(0, 3, 1, 2).contiguous(), numbers, classes, f"npz: {path}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file can make the readers raise anything
        raise ValueError(f"npz: {path} is damaged: {error or type(error).__name__}") from error


def _declared(stored: ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type that an array's header declares; ValueError where the file holds another number of bytes."""
    with stored.open(name) as entry:
        version = np.lib.format.read_magic(entry)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(entry)
        held = stored.getinfo(name).file_size - entry.tell()
    if not kind.hasobject and math.prod(shape) * kind.itemsize != held:
        raise ValueError(f"{name} declares {shape} {kind}, {math.prod(shape) * kind.itemsize} bytes, and holds {held}")
    return shape, kind


def _check_declared(path: Path, declared: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
    (images, pixel), (labels, number) = declared["images"], declared["labels"]
    if pixel != np.uint8 or len(images) not in (3, 4):
        raise TypeError(f"npz: images in {path} must be uint8 (N, H, W, C), got {pixel} {images}")
    if len(images) == 4 and images[3] > 4 and images[1] in (1, 3):
        raise ValueError(f"npz: images in {path} must be (N, H, W, C), got {images}: channels come last")
    if not np.issubdtype(number, np.integer):
        raise TypeError(f"npz: labels in {path} must be integers, got {number}")
    if labels != images[:1]:
        raise ValueError(f"npz: labels in {path} must be {images[:1]}, one an image, got shape {labels}")
    if not images[0]:
        raise ValueError(f"npz: {path} holds no images")
    names, kind = declared.get("classes", ((0,), np.dtype(str)))
    if len(names) != 1 or kind.hasobject:
        raise TypeError(f"npz: classes in {path} must be names (K,), got {kind} {names}")


def npz_splits(root: Path) -> Splits:
    """A folder with `train.npz` and `test.npz`, or one file divided 70 : 10 : 20, stratified, the same every time."""
    if root.is_dir():
        train, test = npz(root / "train.npz"), npz(root / "test.npz")
        for one, other in ((train, test), (test, train)):
            # Without names the classes are numbers up to the largest label, which one of the files may not have.
            if one.classes == other.classes[: len(one.classes)] == tuple(map(str, range(len(one.classes)))):
                one.classes = other.classes
        return _with_holdout("npz", train, test)
    whole = npz(root)
    held, measured = (round(len(whole) * share) for share in SHARES[1:])
    sizes = (len(whole) - held - measured, held, measured)
    return Splits("npz", *(Subset(whole, part) for part in stratified(whole.labels, sizes, SPLIT_SEED)))


def cifar(name: str, root: Path, train: bool, download: bool) -> ImageArray:
    """One part of CIFAR10 or CIFAR100 as torchvision stores it under `root`."""
    from regfast.models._torchvision import torchvision

    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        stored = kind(str(root), train=train, download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name}: looked for {kind.base_folder} in {root}, where it is missing or damaged; "
            "pass --data-root, the folder that holds it, or --download"
        ) from error
    images = torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous()
    return ImageArray(images, torch.tensor(stored.targets), stored.classes, name)


def cifar_splits(name: str, root: Path, download: bool) -> Splits:
    """CIFAR10 or CIFAR100; a tenth of the training images is held out."""
    return _with_holdout(name, cifar(name, root, True, download), cifar(name, root, False, download))


def image_folder(root: Path, transform: Transform | None = None) -> ImageFiles:
    """A folder with one folder of images a class (torchvision's ImageFolder).

    `transform` makes a float tensor (C, H, W) in [0, 1] of a PIL image; by default ImageNet's usual one: the shorter
    side to 256 pixels, the central 224×224. Images are RGB, the first frame of an animation, and as they are stored:
    like torchvision's loader this one does not turn them by their EXIF orientation.
    """
    from regfast.models._torchvision import torchvision

    if not root.is_dir():
        raise FileNotFoundError(f"imagefolder: no folder {root}; pass one that has a folder of images for each class")
    try:
        folder = torchvision.datasets.ImageFolder(str(root), loader=_read_image)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"imagefolder: {root} has no folder of images for each class ({error})") from error
    return ImageFiles(folder, transform or Preprocess())


def _read_image(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return as_rgb(image)


def image_folder_splits(root: Path, transform: Transform | None = None) -> Splits:
    """`root/train` and `root/val` (or `root/test`), ImageNet's layout; a tenth of the training images is held out."""
    test = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        raise FileNotFoundError(f"imagefolder: looked for train and val (or test) in {root}; pass their parent folder")
    train, measured = image_folder(root / "train", transform), image_folder(test, transform)
    return _with_holdout("imagefolder", train, measured)


def _with_holdout(name: str, train: ImageSet, test: ImageSet) -> Splits:
    if train.classes != test.classes:
        number, one, other = next(
            (number, *names)
            for number, names in enumerate(zip_longest(train.classes, test.classes, fillvalue="none"))
            if names[0] != names[1]
        )
        raise ValueError(
            f"{name}: class {number} is {one!r} to train on and {other!r} to test on "
            f"({len(train.classes)} and {len(test.classes)} classes)"
        )
    held = max(1, min(len(train) // 10, 5000))
    kept, holdout = stratified(train.labels, (len(train) - held, held), SPLIT_SEED)
    return Splits(name, Subset(train, kept), Subset(train, holdout), test)
