"""Data sets by name: `load_splits` to train and measure on, `load_images` to attack or evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from regfast.data.digits import NOISE, digits
from regfast.data.files import cifar, cifar_splits, image_folder, image_folder_splits, npz, npz_splits
from regfast.data.images import ImageSet, Splits, Transform
from regfast.registry import Registry, parse


class DataSet(ABC):
    """A data set that has a name; a user's own is a class derived from this one, written `module:Name`.

    Attributes:
        embedded: nothing has to be fetched, and it is small: no `root` is needed, studies train long and in several
            processes.
        network: the model that suits it, by name; None: the study chooses by `embedded`.
        recipe: how it is trained, by name.
    """

    embedded: bool = False
    network: str | None = None
    recipe: str = "cifar"

    @abstractmethod
    def splits(self, root: Path, *, download: bool, transform: Transform | None) -> Splits:
        """Train, held out and test; the same division every time. `root` is Path() where it is embedded."""

    def images(self, root: Path, *, download: bool, transform: Transform | None) -> ImageSet:
        """What is measured on; the test part unless a subclass says otherwise."""
        return self.splits(root, download=download, transform=transform).test

    def training(self, root: Path, *, download: bool, transform: Transform | None) -> ImageSet:
        """What was trained on; the training part unless a subclass says otherwise."""
        return self.splits(root, download=download, transform=transform).train


DATASETS: Registry[DataSet] = Registry("data set", DataSet)


@DATASETS.register("digits")
class Digits(DataSet):
    """Scikit-learn's handwritten digits, 8×8."""

    embedded = True
    recipe = "digits"
    noise = 0.0

    def splits(self, root: Path, *, download: bool, transform: Transform | None) -> Splits:
        """1,200 : 149 : 448."""
        return digits(self.noise)


@DATASETS.register("noisy-digits")
class NoisyDigits(Digits):
    """The digits with fixed pixel noise, on which a hard model over-fits as large networks do."""

    noise = NOISE


class Cifar(DataSet):
    """CIFAR-10 or CIFAR-100, as torchvision stores them under `root`."""

    name: str

    def splits(self, root: Path, *, download: bool, transform: Transform | None) -> Splits:
        """A tenth of the training images is held out."""
        return cifar_splits(self.name, root, download)

    def images(self, root: Path, *, download: bool, transform: Transform | None) -> ImageSet:
        """The test images."""
        return cifar(self.name, root, False, download)


@DATASETS.register("cifar10")
class Cifar10(Cifar):
    """CIFAR-10."""

    name = "cifar10"


@DATASETS.register("cifar100")
class Cifar100(Cifar):
    """CIFAR-100."""

    name = "cifar100"


@DATASETS.register("imagefolder")
class ImageFolder(DataSet):
    """A folder of class folders, as ImageNet's."""

    network = "torchvision:resnet18"
    recipe = "imagenet"

    def splits(self, root: Path, *, download: bool, transform: Transform | None) -> Splits:
        """`root/train` and `root/val` (or `test`); a tenth of the training images is held out."""
        return image_folder_splits(root, transform)

    def images(self, root: Path, *, download: bool, transform: Transform | None) -> ImageSet:
        """Of the folder of class folders itself, or of one that has `val` or `test`."""
        return image_folder(next((root / part for part in ("val", "test") if (root / part).is_dir()), root), transform)

    def training(self, root: Path, *, download: bool, transform: Transform | None) -> ImageSet:
        """Of the folder of class folders itself, or of one that has `train`."""
        return image_folder(root / "train" if (root / "train").is_dir() else root, transform)


@DATASETS.register("npz")
class Npz(DataSet):
    """Arrays in `.npz` files."""

    def splits(self, root: Path, *, download: bool, transform: Transform | None) -> Splits:
        """`root/train.npz` and `root/test.npz`, or one file divided 70 : 10 : 20."""
        return npz_splits(root)

    def images(self, root: Path, *, download: bool, transform: Transform | None) -> ImageSet:
        """All of one file, or of `root/test.npz`."""
        return npz(root / "test.npz" if root.is_dir() else root)

    def training(self, root: Path, *, download: bool, transform: Transform | None) -> ImageSet:
        """All of one file, or of `root/train.npz`."""
        return npz(root / "train.npz" if root.is_dir() else root)


def load_splits(
    name: str, root: str | Path | None = None, *, download: bool = False, transform: Transform | None = None
) -> Splits:
    """The data set `name`, divided to train, held out and to test; the same division every time.

    `name`: digits and noisy-digits are embedded; cifar10 and cifar100 lie under `root` as torchvision stores them,
    imagefolder has `root/train` and `root/val`, npz is a file, or a folder with `train.npz` and `test.npz`;
    `module:Name` is a `DataSet` of your own, options after it (`module:Name:option=value`).
    `download` lets torchvision fetch CIFAR into `root`; nothing is downloaded otherwise. `transform` (imagefolder)
    makes a tensor in [0, 1] of a PIL image.

    Raises ValueError for an unknown name, or for data that is damaged or does not fit, and FileNotFoundError where it
    is missing; both say what was looked for and where.

    >>> splits = load_splits("digits")
    >>> len(splits.train), len(splits.holdout), len(splits.test)
    (1200, 149, 448)
    """
    found = DATASETS.build(name)
    return found.splits(_root(name, found, root), download=download, transform=transform)


def load_images(
    name: str, root: str | Path | None = None, *, download: bool = False, transform: Transform | None = None
) -> ImageSet:
    """The images of data set `name` that are measured on: its test part, or all of an `.npz` file or image folder.

    Options and errors as for `load_splits`. For imagefolder `root` is the folder of class folders itself, or one that
    has `val` or `test`.
    """
    found = DATASETS.build(name)
    return found.images(_root(name, found, root), download=download, transform=transform)


def load_training(
    name: str, root: str | Path | None = None, *, download: bool = False, transform: Transform | None = None
) -> ImageSet:
    """The training images of data set `name`, all of an `.npz` file or image folder. Options as for `load_splits`."""
    found = DATASETS.build(name)
    return found.training(_root(name, found, root), download=download, transform=transform)


def data_set(name: str) -> type[DataSet]:
    """The class of data set `name`, whatever its options. Raises ValueError for an unknown name."""
    return DATASETS.find(parse(name)[0])


def _root(name: str, found: DataSet, root: str | Path | None) -> Path:
    if found.embedded:
        return Path()
    if root is None:
        raise ValueError(f"data set {name} needs a data root (--data-root): the folder or file that holds it")
    return Path(root)
