"""Data sets from files: `.npz` arrays, torchvision's CIFAR10 and CIFAR100, and folders of images as ImageNet's.

Nothing is downloaded unless asked for. What is missing or damaged is named, with the place that was searched.
"""

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from regfast.data.images import ImageArray, ImageFiles, ImageSet, Splits, Subset, Transform, stratified
from regfast.models import Preprocess

SPLIT_SEED = 2410
SHARES = (0.7, 0.1, 0.2)  # of one undivided set: to train, held out, to test
_TEST_FOLDERS = ("val", "test")


def npz(path: Path) -> ImageArray:
    """All of one `.npz` file: `images` uint8 (N, H, W, C) or (N, H, W), `labels` integers (N,), optionally `classes`.

    Raises FileNotFoundError, or ValueError or TypeError for a file that is damaged or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"npz: no file {path}; pass one with arrays `images` and `labels` as the data root")
    try:
        with np.load(path, allow_pickle=False) as stored:
            names = stored.files
            arrays = {name: stored[name] for name in ("images", "labels", "classes") if name in names}
    except (BadZipFile, OSError, EOFError, KeyError, ValueError, TypeError, zlib.error) as error:
        raise ValueError(f"npz: {path} is damaged: {error}") from error
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise ValueError(f"npz: {path} has no array {' and '.join(missing)}; it has {', '.join(names) or 'none'}")
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise TypeError(f"npz: images in {path} must be uint8 (N, H, W, C), got {images.dtype} {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"npz: labels in {path} must be integers, got {labels.dtype}")
    if not len(labels):
        raise ValueError(f"npz: {path} holds no images")
    classes = arrays.get("classes", np.arange(int(labels.max()) + 1)).astype(str).tolist()
    pixels = torch.from_numpy(images[..., None] if images.ndim == 3 else images)
    return ImageArray(pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels), classes, f"npz: {path}")


def npz_splits(root: Path) -> Splits:
    """A folder with `train.npz` and `test.npz`, or one file divided 70 : 10 : 20, stratified, the same every time."""
    if root.is_dir():
        return _with_holdout("npz", npz(root / "train.npz"), npz(root / "test.npz"))
    whole = npz(root)
    held, test = (round(len(whole) * share) for share in SHARES[1:])
    sizes = (len(whole) - held - test, held, test)
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
    side to 256 pixels, the central 224×224.
    """
    from regfast.models._torchvision import torchvision

    if not root.is_dir():
        raise FileNotFoundError(f"imagefolder: no folder {root}; pass one that has a folder of images for each class")
    try:
        folder = torchvision.datasets.ImageFolder(str(root))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"imagefolder: {root} has no folder of images for each class ({error})") from error
    return ImageFiles(folder, transform or Preprocess())


def image_folder_splits(root: Path, transform: Transform | None = None) -> Splits:
    """`root/train` and `root/val` (or `root/test`), ImageNet's layout; a tenth of the training images is held out."""
    test = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
    if not (root / "train").is_dir() or test is None:
        raise FileNotFoundError(f"imagefolder: looked for train and val (or test) in {root}; pass their parent folder")
    train, measured = image_folder(root / "train", transform), image_folder(test, transform)
    if train.classes != measured.classes:
        different = sorted(set(train.classes) ^ set(measured.classes))
        raise ValueError(
            f"imagefolder: train and {test.name} in {root} differ in the classes {', '.join(different[:5])}"
        )
    return _with_holdout("imagefolder", train, measured)


def _with_holdout(name: str, train: ImageSet, test: ImageSet) -> Splits:
    if len(train.classes) != len(test.classes):
        raise ValueError(f"{name}: {len(train.classes)} classes to train on, {len(test.classes)} to test on")
    held = max(1, min(len(train) // 10, 5000))
    kept, holdout = stratified(train.labels, (len(train) - held, held), SPLIT_SEED)
    return Splits(name, Subset(train, kept), Subset(train, holdout), test)
