import math

import pytest
import torch

from regfast.representation import boundary_distance
from tests.representation.closed_forms import random_head, simplex, unit


def right_features(weight, bias, n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, weight.shape[1], generator=generator, dtype=torch.float64)
    return features, (features @ weight.T + bias).argmax(1)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_simplex_etf_in_closed_form(num_classes):
    weight = simplex(num_classes, num_classes + 2, scale=1.3)
    features = 2.0 * unit(weight)
    way = boundary_distance(features, weight, None, torch.arange(num_classes))
    # The nearest boundary is sqrt(K/(2(K-1))) of the length away; along the gradient it is at the origin.
    expected = 2 * math.sqrt(num_classes / (2 * (num_classes - 1)))
    torch.testing.assert_close(way.distance, torch.full((num_classes,), expected).double())
    torch.testing.assert_close(way.gradient_distance, torch.full((num_classes,), 2.0).double())
    torch.testing.assert_close(way.cosine, torch.full((num_classes,), expected / 2).double())


def test_linear_model_with_two_classes():
    weight, bias = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([-1.0, 0.0])
    way = boundary_distance(torch.tensor([[3.0, 7.0], [0.0, 5.0]]), weight, bias, torch.tensor([0, 1]))
    # The boundary is x = 1/2.
    torch.testing.assert_close(way.distance, torch.tensor([2.5, 0.5]).double())
    torch.testing.assert_close(way.gradient_distance, way.distance)
    torch.testing.assert_close(way.cosine, torch.ones(2).double())


def test_the_prediction_changes_there_and_not_before():
    weight, bias = random_head(8, 5, seed=1)
    features, labels = right_features(weight, bias)
    way = boundary_distance(features, weight, bias, labels)
    direction = unit(weight[way.rival] - weight[labels])
    slope = (
        torch.softmax((features @ weight.T + bias).scatter(1, labels[:, None], -math.inf), 1) @ weight - weight[labels]
    )
    for step, along in ((way.distance, direction), (way.gradient_distance, unit(slope))):
        finite = torch.isfinite(step)
        assert float(finite.double().mean()) > 0.9
        for factor, same in ((1 - 1e-6, True), (1 + 1e-6, False)):
            moved = features + (factor * step)[:, None] * along
            assert bool((((moved @ weight.T + bias).argmax(1) == labels) == same)[finite].all())
    assert bool((way.gradient_distance >= way.distance - 1e-12).all())


def test_no_random_direction_is_shorter():
    weight, bias = random_head(4, 3, seed=2)
    features, labels = right_features(weight, bias, 50)
    distance = boundary_distance(features, weight, bias, labels).distance
    generator = torch.Generator().manual_seed(3)
    for _ in range(200):
        along = unit(torch.randn(50, 3, generator=generator).double())
        moved = features + 0.999 * distance[:, None] * along
        assert torch.equal((moved @ weight.T + bias).argmax(1), labels)


def test_misclassified_samples_are_at_zero_and_saturation_is_no_problem():
    weight = simplex(3, 3)
    way = boundary_distance(400 * weight, weight.float(), None, torch.tensor([0, 1, 0]))
    assert float(way.distance[2]) == 0
    assert float(way.gradient_distance[2]) == 0
    # The cross-entropy's gradient is exactly 0 in float32 here; the direction is still known.
    assert float(way.gradient_distance[0]) == pytest.approx(400, rel=1e-5)


def test_a_rival_with_the_same_weights_can_never_overtake():
    weight, bias = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1.0, 0.0])
    way = boundary_distance(torch.zeros(1, 2), weight, bias, torch.tensor([0]))
    assert float(way.distance) == math.inf
    assert float(way.gradient_distance) == math.inf


def test_bad_input_is_named():
    weight, bias = random_head(3, 4)
    with pytest.raises(IndexError, match="labels"):
        boundary_distance(torch.zeros(1, 4), weight, bias, torch.tensor([3]))
    with pytest.raises(ValueError, match="features"):
        boundary_distance(torch.zeros(1, 5), weight, bias, torch.tensor([0]))
    with pytest.raises(ValueError, match="K ≥ 2"):
        boundary_distance(torch.zeros(1, 4), weight[:1], None, torch.tensor([0]))
