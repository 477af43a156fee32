"""Carlini-Wagner comes near the exact minimal distances of linear models, and its search over c works across runs."""

import pytest
import torch

from regfast.attacks import CarliniWagner
from tests.attacks.test_fab import exact_distances, linear_problem


def problem():
    model, images, labels, weight = linear_problem(gap=5.0)
    return model, images, labels, exact_distances(model, images, labels, weight, "l2").amin(1)


def test_it_finds_the_nearest_point_of_a_linear_model():
    model, images, labels, exact = problem()
    result = CarliniWagner(steps=100, searches=6).run(model, images, labels)
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-4)).all()
    assert (result.distance / exact).median() < 1.05
    assert (model(result.images).argmax(1) != labels).all()


@pytest.mark.parametrize("initial", [1e-6, 1e-3])
def test_a_first_c_that_is_too_small_is_mended_by_the_search(initial):
    model, images, labels, exact = problem()
    one = CarliniWagner(steps=60, searches=1, initial=initial).run(model, images, labels)
    many = CarliniWagner(steps=60, searches=9, initial=initial).run(model, images, labels)
    assert not one.success.all()
    assert many.success.all()
    found = one.success
    assert (many.distance / exact)[found].median() < (one.distance / exact)[found].median()


def test_with_eps_it_leaves_once_inside():
    model, images, labels, exact = problem()
    eps = exact.median().item()
    result = CarliniWagner(eps, steps=60, searches=6).run(model, images, labels)
    assert (result.distance <= eps).all()
    assert result.success[exact < 0.8 * eps].all()
    assert result.queries[result.success].max() < result.queries[result.robust].min()


def test_targets_are_reached():
    model, images, labels, _ = problem()
    targets = (labels + 1) % 6
    result = CarliniWagner(steps=100, searches=6).run(model, images, labels, targets=targets)
    assert result.success.all()
    assert torch.equal(model(result.images).argmax(1), targets)


def test_bad_options_are_named():
    for name, value in (("eps", -1.0), ("steps", 0), ("searches", 0), ("initial", -1.0), ("lr", float("nan"))):
        with pytest.raises(ValueError, match=name):
            CarliniWagner(**{name: value})
