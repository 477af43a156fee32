"""The batch transforms take what torchvision's take, and draw in a DataLoader's workers as one seed says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, default_collate

from regfast import CutMix, MixUp, RandomChoice, SoftTargets, cutmix, mixup, soft_cross_entropy
from regfast.models import _torchvision  # noqa: F401 (makes torchvision import)
from regfast.ops import dispatch
from regfast.targets import mixing

BOTH = [(MixUp, mixup), (CutMix, cutmix)]


def batch(rows: int = 6, classes: int = 5):
    return torch.rand(rows, 3, 8, 8), torch.arange(rows) % classes


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Collate:
    def __init__(self, mix):
        self.mix = mix

    def __call__(self, samples):
        return self.mix(*default_collate(samples))


def draws(mix, seed=None, epochs=2, **options):
    data = TensorDataset(torch.rand(64, 3, 4, 4), torch.randint(10, (64,)))
    generator = None if seed is None else seeded(seed)
    loader = DataLoader(data, 8, num_workers=2, collate_fn=Collate(mix), generator=generator, **options)
    return [float(target.lam) for _ in range(epochs) for _, target in loader]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_and_epochs_draw_differently_and_as_the_seeds_say(persistent):
    first, again, other = (
        draws(MixUp(10, generator=seeded(7)), seed, persistent_workers=persistent) for seed in (0, 0, 1)
    )
    assert len(set(first)) == len(first) == 16
    assert first == again and not set(first) & set(other)
    assert not set(first) & set(draws(MixUp(10, generator=seeded(8)), 0, persistent_workers=persistent))


def test_transforms_that_share_a_generator_share_it_in_a_worker():
    """Seeded anew once, not by each of them: the choice and the λ are not the same numbers twice."""
    shared = seeded()
    mix = RandomChoice([MixUp(10, generator=shared), MixUp(10, generator=shared)], generator=shared)
    drawn = draws(mix, 0)
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(("transform", "function"), BOTH)
def test_structures(transform, function):
    images, labels = batch()
    expected, same = function(images, labels, 5, generator=seeded())
    extra, ids = object(), torch.arange(6)
    cases = {
        "arguments": ((images, labels), lambda out: out),
        "one pair": ([(images, labels)], lambda out: out),
        "list with more": ([[images, labels, ids, extra]], lambda out: out[:2]),
        "mapping": ([{"id": ids, "image": images, "Label": labels}], lambda out: (out["image"], out["Label"])),
        "boxes before": (
            [{"boxes": torch.rand(6, 4), "image": images, "label": labels}],
            lambda out: (out["image"], out["label"]),
        ),
        "the name itself": ([{"label_of": ids, "x": images, "labels": labels}], lambda out: (out["x"], out["labels"])),
        "mapping in a pair": ([(images, {"labels": labels, "id": ids})], lambda out: (out[0], out[1]["labels"])),
    }
    for name, (arguments, pick) in cases.items():
        out = transform(5, generator=seeded())(*arguments)
        mixed, target = pick(out)
        assert torch.equal(mixed, expected) and torch.equal(target.dense(), same.dense()), name
        assert type(out) is (tuple if len(arguments) == 2 else type(arguments[0])), name
    assert transform(5)([images, labels, ids, extra])[2:] == [ids, extra]
    own = transform(5, generator=seeded(), labels_getter=lambda batch: batch["y"])
    assert torch.equal(own({"x": images, "y": labels})["y"].dense(), same.dense())


@pytest.mark.parametrize(("transform", "function"), BOTH)
def test_one_hot_labels_and_probabilities(transform, function):
    images, labels = batch()
    expected = function(images, labels, 5, smoothing=0.1, generator=seeded())[1]
    one_hot = functional.one_hot(labels, 5)
    for num_classes in (None, 5):
        mix = transform(num_classes, smoothing=0.1, generator=seeded())
        target = mix(images, one_hot)[1]
        assert isinstance(target, SoftTargets) and torch.equal(target.dense(), expected.dense())
        mix.generator = seeded()
        torch.testing.assert_close(mix(images, one_hot.float())[1], expected.dense())
    with pytest.raises(ValueError, match=r"labels \(B, K\) must have 4 columns, got \(6, 5\)"):
        transform(4)(images, one_hot)
    with pytest.raises(ValueError, match="one-hot"):
        transform(5)(images, one_hot + one_hot.roll(1, 1))
    with pytest.raises(ValueError, match="num_classes must be given"):
        transform()(images, labels)


def test_uint8_images():
    images, labels = batch()
    images = (images * 255).byte()
    mixed, target = CutMix(5, generator=seeded())(images, labels)
    assert mixed.dtype == torch.uint8 and target.lam == cutmix(images, labels, 5, generator=seeded())[1].lam
    assert torch.equal(mixed[mixed != images], images.roll(1, 0)[mixed != images])
    with pytest.raises(TypeError, match=r"images must be a floating tensor, got torch\.uint8"):
        MixUp(5)(images, labels)


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_images_and_matrix_are_torchvisions_for_the_same_draw(name):
    """λ is read off torchvision's matrix, the box off its images."""
    from torchvision.transforms import v2

    images, labels = batch()
    theirs, matrix = getattr(v2, name)(num_classes=5)(images, labels)
    ours = {"MixUp": MixUp, "CutMix": CutMix}[name](5, generator=seeded())(images, labels)[1]  # λ is below 1
    lam = float(matrix[1, 1])
    torch.testing.assert_close(SoftTargets(ours.first, ours.second, lam, num_classes=5).dense(), matrix)
    if name == "MixUp":
        torch.testing.assert_close(mixing.mix_images(images, lam), theirs)
    else:
        rows, columns = ((theirs != images).flatten(0, 1).any(0).any(dim).nonzero() for dim in (1, 0))
        box = (
            (int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1)
            if len(rows)
            else (0,) * 4
        )
        assert torch.equal(mixing.paste(images, box), theirs)


def test_torchvisions_tensors():
    from torchvision import tv_tensors

    images, labels = batch()
    mixed, _ = CutMix(5)(tv_tensors.Image(images), labels)
    assert type(mixed) is tv_tensors.Image
    with pytest.raises(ValueError, match="MixUp mixes images and labels, not Mask"):
        MixUp(5)(tv_tensors.Image(images), labels, tv_tensors.Mask(labels))


def test_what_is_no_batch_is_refused():
    images, labels = batch()
    for broken, error, message in (
        (lambda: MixUp(4)(images, labels), IndexError, "labels must be below num_classes, 4, got 4"),
        (lambda: MixUp(5)(images), ValueError, "holds images and labels"),
        (lambda: MixUp(5)((images, [0, 1])), TypeError, "labels must be a tensor, got list"),
        (lambda: MixUp(5)({"x": images, "y": labels}), ValueError, "only x, y: pass labels_getter="),
        (lambda: MixUp(5, labels_getter=lambda batch: labels.clone())(images, labels), ValueError, "holds images"),
        (lambda: MixUp(5, labels_getter=3), ValueError, "labels_getter must be 'default' or callable, got 3"),
        (lambda: MixUp(0), ValueError, "num_classes must be at least 1, got 0"),
        (lambda: CutMix(5)(images[:3], labels), ValueError, "as many rows"),
        (lambda: CutMix(5)(images, labels.double()), TypeError, "labels must be an int64 or uint8 tensor"),
    ):
        with pytest.raises(error, match=message):
            broken()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_a_mix_with_an_unlabeled_sample_is_ignored(kind, backend):
    """In either role: the loss is the mean over the other rows, and its gradient is 0 there."""
    if dispatch.unavailable(backend):
        pytest.skip(f"backend {backend}: {dispatch.unavailable(backend)}")
    images, labels = batch()
    labels[2] = -100
    _, target = kind(5, smoothing=0.1, generator=seeded())(images, labels)
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    kept = target.ne(-100)
    assert kept.tolist() == [True, True, False, False, True, True]
    with dispatch.use_backend(backend):
        loss = soft_cross_entropy(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = functional.cross_entropy(logits[kept], target[kept].dense(torch.float64))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
    assert not gradient[~kept].any()
