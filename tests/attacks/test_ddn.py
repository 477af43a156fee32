"""DDN comes near the exact l2 distances of linear models, and can keep to images that 8 bits hold."""

import pytest
import torch

from regfast.attacks.ddn import DDN
from tests.attacks.test_fab import exact_distances, linear_problem


def test_near_the_exact_distance_of_linear_models():
    model, images, labels, weight = linear_problem(gap=5.0)
    exact = exact_distances(model, images, labels, weight, "l2").amin(1)
    result = DDN(steps=200).run(model, images, labels)
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-4)).all()
    assert (result.distance / exact).median() <= 1.06  # a sphere's radius moves in steps of 5 %
    assert (model(result.images).argmax(1) != labels).all()
    torch.testing.assert_close(result.distance, (result.images - images).flatten(1).norm(dim=1))


def test_levels_are_kept():
    model, images, labels, _ = linear_problem(1)
    result = DDN(steps=60, levels=256).run(model, images, labels)
    assert result.success.any()
    moved = result.images[result.success] * 255
    torch.testing.assert_close(moved, moved.round(), rtol=0, atol=1e-4)


def test_with_eps_it_leaves_once_inside():
    model, images, labels, weight = linear_problem(2)
    eps = 2 * exact_distances(model, images, labels, weight, "l2").amin(1).max().item()
    result = DDN(eps, steps=100).run(model, images, labels)
    assert result.success.all()
    assert (result.distance <= eps).all()
    assert result.gradients.float().mean() < 60


@pytest.mark.parametrize("wrong", [{"gamma": 0.0}, {"gamma": 1.0}, {"radius": -1.0}, {"levels": 1}, {"steps": 0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DDN(**wrong)
