"""Data sets by name: `load_splits` to train and measure on, `load_images` to attack or evaluate."""

from pathlib import Path

from regfast.data.digits import NOISE, digits
from regfast.data.files import cifar, cifar_splits, image_folder, image_folder_splits, npz, npz_splits
from regfast.data.images import ImageSet, Splits, Transform

DATASETS = ("noisy-digits", "digits", "cifar10", "cifar100", "imagefolder", "npz")


def load_splits(
    name: str, root: str | Path | None = None, *, download: bool = False, transform: Transform | None = None
) -> Splits:
    """The data set `name`, divided to train, held out and to test; the same division every time.

    `name`: digits and noisy-digits are embedded; cifar10 and cifar100 lie under `root` as torchvision stores them,
    imagefolder has `root/train` and `root/val`, npz is a file, or a folder with `train.npz` and `test.npz`.
    `download` lets torchvision fetch CIFAR into `root`; nothing is downloaded otherwise. `transform` (imagefolder)
    makes a tensor in [0, 1] of a PIL image.

    Raises ValueError for an unknown name, or for data that is damaged or does not fit, and FileNotFoundError where it
    is missing; both say what was looked for and where.
    """
    if name in ("digits", "noisy-digits"):
        return digits(NOISE if name == "noisy-digits" else 0.0)
    folder = _root(name, root)
    if name == "npz":
        return npz_splits(folder)
    if name == "imagefolder":
        return image_folder_splits(folder, transform)
    return cifar_splits(name, folder, download)


def load_images(
    name: str, root: str | Path | None = None, *, download: bool = False, transform: Transform | None = None
) -> ImageSet:
    """The images of data set `name` that are measured on: its test part, or all of an `.npz` file or image folder.

    Options and errors as for `load_splits`. For imagefolder `root` is the folder of class folders itself, or one that
    has `val` or `test`.
    """
    if name in ("digits", "noisy-digits"):
        return load_splits(name).test
    folder = _root(name, root)
    if name == "npz":
        return npz(folder / "test.npz" if folder.is_dir() else folder)
    if name == "imagefolder":
        return image_folder(
            next((folder / part for part in ("val", "test") if (folder / part).is_dir()), folder), transform
        )
    return cifar(name, folder, False, download)


def _root(name: str, root: str | Path | None) -> Path:
    if name not in DATASETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATASETS)}")
    if root is None:
        raise ValueError(f"data set {name} needs a data root (--data-root): the folder or file that holds it")
    return Path(root)
