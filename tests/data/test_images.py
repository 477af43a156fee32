import pytest
import torch

from regfast.data import ImageArray, Splits, Subset, pick_samples
from regfast.data.images import stratified


def test_uint8_and_float_images_agree():
    pixels = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 1, 0])
    stored = ImageArray(pixels, labels, "abc")
    scaled = ImageArray(pixels.float() / 255, labels, "abc")
    chosen = torch.tensor([4, 1, 1])
    assert torch.equal(stored.batch(chosen), scaled.batch(chosen))
    image, label = stored[3]
    assert image.dtype == torch.float32 and label == 1
    assert torch.equal(image, pixels[3].float() / 255)
    assert stored.classes == ("a", "b", "c")


def test_subset_of_subset():
    whole = ImageArray(torch.rand(6, 1, 2, 2), torch.arange(6), "abcdef")
    part = Subset(Subset(whole, torch.tensor([5, 3, 1])), torch.tensor([2, 0]))
    assert part.labels.tolist() == [1, 5]
    assert torch.equal(part.batch(torch.tensor([0, 1])), whole.images[[1, 5]])
    assert part[1][1] == 5 and len(part) == 2


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.rand(2, 4, 4), torch.tensor([0, 1]), ValueError, "N, C, H, W"),
        (torch.rand(2, 1, 4, 4).double(), torch.tensor([0, 1]), TypeError, "float64"),
        (2 * torch.ones(2, 1, 4, 4), torch.tensor([0, 1]), ValueError, r"\[2, 2\]"),
        (torch.full((2, 1, 4, 4), torch.nan), torch.tensor([0, 1]), ValueError, "nan"),
        (torch.rand(2, 1, 4, 4), torch.tensor([0, 3]), ValueError, r"label 3 of image 1 is outside \[0, 3\)"),
        (torch.rand(2, 1, 4, 4), torch.tensor([-1, 0]), ValueError, "label -1 of image 0"),
        (torch.rand(2, 1, 4, 4), torch.tensor([0.0, 1.0]), TypeError, "integers"),
        (torch.rand(2, 1, 4, 4), torch.tensor([0]), ValueError, r"must be \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(images, labels, error, message):
    with pytest.raises(error, match=message):
        ImageArray(images, labels, "abc")


def test_a_limit_is_drawn_as_evaluations_draw_it():
    images = ImageArray(torch.zeros(50, 1, 2, 2), torch.arange(50) // 5, tuple("0123456789"))
    splits = Splits("sorted", images, images, images)
    limited = splits.limited(20)
    assert limited.test.labels.tolist() == [sample // 5 for sample in pick_samples(50, 20, seed=0)]
    assert len(limited.test.labels.unique()) > 5  # the first 20 of a sorted set are of four classes
    assert len(limited.train) == 50 and splits.limited(None) is splits


def test_stratified_keeps_proportions_and_depends_on_the_seed():
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((100, 50, 10))])
    first, second = stratified(labels, (80, 40), seed=1)
    assert not set(first.tolist()) & set(second.tolist())
    for part, size in ((first, 80), (second, 40)):
        expected = torch.tensor([100, 50, 10]) * size / 160
        assert len(part) == size
        assert (labels[part].bincount(minlength=3) - expected).abs().max() <= 1
    assert torch.equal(first, stratified(labels, (80, 40), seed=1)[0])
    assert not torch.equal(first, stratified(labels, (80, 40), seed=2)[0])
    with pytest.raises(ValueError, match="160"):
        stratified(labels, (100, 61), seed=0)
