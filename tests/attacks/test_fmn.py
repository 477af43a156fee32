"""FMN comes near the exact minimal distances of linear models, and its radius never leaves the box's reach."""

import pytest

from regfast.attacks.fmn import FMN
from tests.attacks.test_fab import exact_distances, linear_problem


@pytest.mark.parametrize("norm, slack", [("linf", 0.03), ("l2", 0.02), ("l1", 0.15)])
def test_near_the_exact_distance_of_linear_models(norm, slack):
    model, images, labels, weight = linear_problem(gap=1.0 if norm == "l1" else 4.0)  # l1: one pixel has room for 0.4
    exact = exact_distances(model, images, labels, weight, norm).amin(1)
    result = FMN(norm, steps=200).run(model, images, labels)
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-4)).all()
    assert (result.distance / exact).median() <= 1 + slack
    assert (model(result.images).argmax(1) != labels).all()
    assert ((result.images >= 0) & (result.images <= 1)).all()


def test_with_eps_it_leaves_once_inside():
    model, images, labels, weight = linear_problem(1)
    exact = exact_distances(model, images, labels, weight, "linf").amin(1)
    eps = exact.max().item() * 1.5
    leaving, full = FMN("linf", eps, steps=100), FMN("linf", steps=100)
    result = leaving.run(model, images, labels)
    assert result.success.all()
    assert (result.distance <= eps).all()
    assert result.gradients.sum() < 0.3 * full.run(model, images, labels).gradients.sum()


def test_reaches_the_classes_that_the_user_names():
    model, images, labels, _ = linear_problem(2, classes=4)
    goal = (labels + 2) % 4
    result = FMN("l2", steps=100).run(model, images, labels, targets=goal)
    assert result.success.all()
    assert (model(result.images).argmax(1) == goal).all()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"gamma": (0.5, 2.0)}, {"step_size": -1.0}, {"norm": "l3"}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FMN(**wrong)
