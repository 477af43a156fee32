import pytest
import torch
from sklearn.datasets import load_digits

from regfast.data import load_splits
from regfast.data.digits import add_noise


@pytest.mark.parametrize("name", ["digits", "noisy-digits"])
def test_split(name):
    splits = load_splits(name)
    parts = [splits.train, splits.holdout, splits.test]
    assert [len(part) for part in parts] == [1200, 149, 448]
    assert splits.num_classes == 10 and splits.image_shape == (1, 8, 8) and splits.name == name
    assert len(torch.cat([part.indices for part in parts]).unique()) == 1797
    for part in parts:
        share = part.labels.bincount() / len(part)
        assert (share - 0.1).abs().max() < 0.012
    again = load_splits(name)
    everything = torch.arange(448)
    assert torch.equal(again.test.batch(everything), splits.test.batch(everything))


def test_clean_digits_are_the_scans():
    splits, raw = load_splits("digits"), load_digits()
    images = splits.test.batch(torch.arange(448))
    expected = torch.tensor(raw.images, dtype=torch.float32)[splits.test.indices] / 16
    assert torch.equal(images[:, 0], expected)
    assert torch.equal(splits.test.labels, torch.tensor(raw.target)[splits.test.indices])


def test_noise_is_fixed_and_leaves_images_in_the_box():
    clean, noisy = load_splits("digits").train, load_splits("noisy-digits").train
    everything = torch.arange(1200)
    before, after = clean.batch(everything), noisy.batch(everything)
    assert float(after.min()) == 0 and float(after.max()) == 1
    # Where neither side of the box was reached, what was added is the Gaussian itself, cut off: unbiased around 1/2.
    middle = (before > 0.45) & (before < 0.55)
    added = (after - before)[middle]
    assert abs(float(added.mean())) < 0.02
    assert 0.3 < float((added.abs() > 0.45).float().mean()) < 0.42  # P(|N(0, 0.5)| > 0.45) = 0.368


def test_add_noise():
    images = torch.full((4, 1, 50, 50), 0.5)
    assert torch.equal(add_noise(images, 0.1, seed=3), add_noise(images, 0.1, seed=3))
    assert not torch.equal(add_noise(images, 0.1, seed=3), add_noise(images, 0.1, seed=4))
    assert abs(float(add_noise(images, 0.1, seed=3).std()) - 0.1) < 0.004
    with pytest.raises(ValueError, match="sigma"):
        add_noise(images, -1, seed=0)
