import pytest
import torch

from regfast.attacks import PGD
from regfast.paper.full_pgd import FullPGD


def linear(scale=1.0):
    weight = torch.tensor([[1.0, -2.0, 0.5, 3.0], [-1.0, 1.0, 2.0, -0.5], [0.5, 0.5, -1.0, 0.0]]) * scale
    return lambda images: images.flatten(1) @ weight.T, weight


def images_and_labels(model, count=40):
    images = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    return images, model(images).argmax(1)


def test_two_classes_of_a_linear_model_in_closed_form():
    # The gradient never turns: the best point is the corner of the ball, fooled or not, and not the first that fools.
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0])
    model = lambda images: torch.stack([images.flatten(1) @ slope, torch.full((len(images),), 1.0)], 1)  # noqa: E731
    images, labels = images_and_labels(model)
    found = FullPGD("linf", 0.1, 20).run(model, images, labels)
    away = torch.where(labels == 0, -1.0, 1.0)[:, None] * slope.sign()
    torch.testing.assert_close(found.images.flatten(1), images.flatten(1) + 0.1 * away)
    assert torch.equal(found.robust, model(found.images).argmax(1) == labels)
    early = PGD("linf", 0.1, 20).run(model, images, labels)
    assert bool((early.distance < found.distance - 1e-4).any())


def test_it_falls_exactly_where_plain_pgd_does_and_goes_further():
    model, _ = linear()
    images, labels = images_and_labels(model)
    full, plain = (attack("linf", 0.15, 15).run(model, images, labels, seed=3) for attack in (FullPGD, PGD))
    assert torch.equal(full.success, plain.success) and full.success.any() and not full.success.all()
    loss = [torch.nn.functional.cross_entropy(model(r.images), labels, reduction="none") for r in (full, plain)]
    assert bool((loss[0] >= loss[1] - 1e-6).all())
    assert float(loss[0][full.success].mean()) > float(loss[1][full.success].mean()) + 0.01
    assert int(full.gradients.min()) >= 15  # every image went to the end


def test_the_lanes_do_not_matter():
    model, _ = linear()
    images, labels = images_and_labels(model)
    one, many = (FullPGD("l2", 0.3, 8).run(model, images, labels, seed=5, lanes=lanes).images for lanes in (3, 40))
    torch.testing.assert_close(one, many)


@pytest.mark.parametrize("options", [{"steps": 0}, {"eps": -1.0}])
def test_bad_settings_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FullPGD(**options)
