import pytest
import torch

from regfast.training import DEFAULTS, Regularizer


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(8, 1, 6, 6, generator=generator), torch.randint(5, (8,), generator=generator)


def test_hard_labels_stay():
    images, labels = batch()
    mixed, target = Regularizer("hard")(images, labels, 5, torch.Generator())
    assert mixed is images and target is labels


def test_smoothing():
    images, labels = batch()
    mixed, target = Regularizer("smoothing", smoothing=0.3)(images, labels, 5, torch.Generator())
    assert torch.equal(mixed, images)
    torch.testing.assert_close(target.dense(), 0.7 * torch.eye(5)[labels] + 0.06)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_depends_on_the_generator_alone(name):
    images, labels = batch()
    rule = Regularizer(name)
    torch.manual_seed(1)
    first, target = rule(images, labels, 5, torch.Generator().manual_seed(7))
    torch.manual_seed(2)
    again, same = rule(images, labels, 5, torch.Generator().manual_seed(7))
    assert torch.equal(first, again) and torch.equal(target.dense(), same.dense())
    assert not torch.equal(first, images)
    torch.testing.assert_close(target.dense().sum(1), torch.ones(8))


def test_defaults_are_filled_in():
    assert {name: dict(Regularizer(name).params) for name in DEFAULTS} == DEFAULTS
    assert Regularizer("mixup", alpha=0.4).params == {"alpha": 0.4}


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("dropout", {}, "there are hard, smoothing, mixup, cutmix"),
        ("hard", {"alpha": 1.0}, "no parameter alpha; it takes none"),
        ("smoothing", {"smoothing": 1.5}, "1.5"),
        ("mixup", {"alpha": 0.0}, "alpha must be positive"),
        ("cutmix", {"alpha": float("nan")}, "alpha must be positive"),
    ],
)
def test_errors(name, params, message):
    with pytest.raises(ValueError, match=message):
        Regularizer(name, **params)
