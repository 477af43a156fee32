"""The embedded data sets: scikit-learn's handwritten digits (real scans, 8×8), clean and with fixed pixel noise."""

from importlib.metadata import distribution

import numpy as np
import torch
from torch import Tensor

from regfast.data.images import ImageArray, Splits, Subset, stratified

TRAIN, HOLDOUT = 1200, 149  # of 1,797; the rest, 448, is the test set
NOISE = 0.5
SPLIT_SEED, NOISE_SEED = 2410, 3999


def digits(noise: float = 0.0) -> Splits:
    """1,797 digits (1, 8, 8) in [0, 1], split once, stratified: 1,200 to train, 149 held out, 448 to test.

    `noise`: standard deviation of Gaussian noise added once to every image, train and test alike, from a fixed seed;
    the sum is clipped to [0, 1], so that noisy images are images and an attack's box means the same for all.
    """
    # `sklearn.datasets.load_digits` reads the same file, after a second of imports.
    scans = np.loadtxt(
        str(distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")), delimiter=","
    )
    images = torch.tensor(scans[:, :-1], dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    labels = torch.tensor(scans[:, -1], dtype=torch.int64)
    if noise:
        images = add_noise(images, noise, NOISE_SEED)
    whole = ImageArray(images, labels, [str(digit) for digit in range(10)], "digits")
    rest = len(labels) - TRAIN - HOLDOUT
    train, holdout, test = (Subset(whole, part) for part in stratified(labels, (TRAIN, HOLDOUT, rest), SPLIT_SEED))
    return Splits("noisy-digits" if noise else "digits", train, holdout, test)


def add_noise(images: Tensor, sigma: float, seed: int) -> Tensor:
    """`images` plus Gaussian noise of standard deviation `sigma`, clipped to [0, 1]; the same for the same seed."""
    if sigma < 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    generator = torch.Generator().manual_seed(seed)
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)
