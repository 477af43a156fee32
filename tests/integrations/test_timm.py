"""timm's own Mixup draws, mixes and builds the matrix; ours must have its images to the bit, and its matrix."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("regfast.models._torchvision", exc_type=ImportError)
pytest.importorskip("timm")

from timm.data import FastCollateMixup as TheirCollate
from timm.data import Mixup as Theirs
from timm.loss import BinaryCrossEntropy as TheirBinary
from timm.loss import LabelSmoothingCrossEntropy as TheirSmoothing
from timm.loss import SoftTargetCrossEntropy as TheirLoss

import regfast
from regfast.integrations.timm import (
    BinaryCrossEntropy,
    FastCollateMixup,
    LabelSmoothingCrossEntropy,
    Mixup,
    SoftTargetCrossEntropy,
)


def seeded(seed):
    np.random.seed(seed)  # noqa: NPY002 (where timm draws)


OPTIONS = [
    {},
    {"mixup_alpha": 0.2, "label_smoothing": 0.0},
    {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.3, "prob": 0.6},
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "correct_lam": False},
    {"mixup_alpha": 0.8, "cutmix_minmax": (0.2, 0.8), "switch_prob": 0.7},
    {"mixup_alpha": 0.8, "prob": 0.0},
]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("options", OPTIONS)
def test_images_and_matrix_are_timms(mode, options):
    theirs, ours = (kind(mode=mode, num_classes=7, **options) for kind in (Theirs, Mixup))
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        images, labels = torch.rand(8, 3, 12, 10, generator=generator), torch.randint(7, (8,), generator=generator)
        seeded(seed)
        expected, matrix = theirs(images.clone(), labels)
        seeded(seed)
        mixed, target = ours(images.clone(), labels)
        assert torch.equal(mixed, expected)
        torch.testing.assert_close(target.dense(), matrix, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("mode", ["batch", "pair", "elem", "half"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("arrays", [False, True])
def test_collate_is_timms(mode, options, arrays):
    theirs, ours = (kind(mode=mode, num_classes=7, **options) for kind in (TheirCollate, FastCollateMixup))
    random = np.random.default_rng(0)
    for seed in range(4):
        pictures = random.integers(0, 256, (8, 3, 12, 10), dtype=np.uint8)
        labels = random.integers(7, size=8).tolist()

        def batch(pictures=pictures, labels=labels):
            made = pictures.copy() if arrays else torch.from_numpy(pictures.copy())
            return list(zip(made, labels, strict=True))

        seeded(seed)
        expected, matrix = theirs(batch())
        seeded(seed)
        mixed, target = ours(batch())
        assert mixed.dtype == torch.uint8 and torch.equal(mixed, expected)
        torch.testing.assert_close(target.dense(), matrix, atol=1e-6, rtol=1e-6)


def test_losses_are_timms():
    logits, labels = torch.randn(8, 7), torch.arange(8) % 7
    seeded(0)
    _, matrix = Theirs(mode="elem", num_classes=7)(torch.rand(8, 3, 4, 4), labels)
    seeded(0)
    _, target = Mixup(mode="elem", num_classes=7)(torch.rand(8, 3, 4, 4), labels)
    for given in (target, matrix):
        torch.testing.assert_close(SoftTargetCrossEntropy()(logits, given), TheirLoss()(logits, matrix))
    for options in ({}, {"smoothing": 0.2, "target_threshold": 0.2}, {"sum_classes": True, "weight": torch.rand(7)}):
        ours, theirs = BinaryCrossEntropy(**options), TheirBinary(**options)
        for given, dense in ((target, matrix), (matrix, matrix), (labels, labels)):
            torch.testing.assert_close(ours(logits, given), theirs(logits, dense))
    for smoothing in (0.1, 0.3):
        ours, theirs = LabelSmoothingCrossEntropy(smoothing), TheirSmoothing(smoothing)
        torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))


def test_timms_loader_takes_the_collate():
    from timm.data import create_loader

    class Pictures(torch.utils.data.Dataset):
        transform = None

        def __len__(self):
            return 16

        def __getitem__(self, index):
            return np.full((3, 8, 8), index, np.uint8), index % 7

    mix = FastCollateMixup(num_classes=7, mode="elem")
    loader = create_loader(
        Pictures(), (3, 8, 8), 8, is_training=True, collate_fn=mix, num_workers=0, device=torch.device("cpu"),
        persistent_workers=False,
    )  # fmt: skip
    assert loader.mixup_enabled
    for images, target in loader:
        assert images.is_floating_point() and isinstance(target, regfast.SoftTargets) and len(target) == 8
    loader.mixup_enabled = False
    for _, target in loader:
        assert torch.equal(target.argmax(1), target.first) and bool((torch.as_tensor(target.lam) == 1).all())


def test_labels():
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, -100, 2, 3])
    seeded(0)
    _, target = Mixup(mode="elem", prob=0.5, num_classes=4)(images, labels)
    alone = target.lam == 1
    assert torch.equal(target.second[alone], target.first[alone])  # nobody is ignored for a partner without a share
    assert torch.equal(target.second[~alone], labels.flip(0)[~alone])
    with pytest.raises(IndexError, match="labels must be below num_classes, 3, got 3"):
        Mixup(num_classes=3)(images, labels)
    with pytest.raises(ValueError, match="the batch must be even, got 3"):
        Mixup(num_classes=4)(images[:3], labels[:3])
    with pytest.raises(ValueError, match="the batch must be even, got 1"):
        FastCollateMixup(num_classes=4)([(np.zeros((3, 2, 2), np.uint8), 0)])


def test_workers_draw_differently():
    """NumPy's state, which torch seeds in every worker from the worker's own seed."""
    data = TensorDataset(torch.zeros(32, 3, 4, 4, dtype=torch.uint8), torch.arange(32) % 7)
    loader = DataLoader(data, 4, num_workers=2, collate_fn=FastCollateMixup(num_classes=7))
    draws = [target.lam for _ in range(2) for _, target in loader]
    assert len(set(draws)) == len(draws)
