import pytest
import torch

from regfast.representation import boundary_distance, feature_attack, fooling_radius, simplex_etf


def head(num_classes=6, dimensions=12, count=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(num_classes, dimensions, generator=generator, dtype=torch.float64)
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    features = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    return features, weight, bias, (features @ weight.T + bias).argmax(1)


@pytest.mark.parametrize("num_classes", [3, 10, 40])
def test_simplex_etf_in_closed_form(num_classes):
    weight = 1.7 * simplex_etf(num_classes)
    labels = torch.arange(num_classes)
    features = torch.linspace(1, 3, num_classes, dtype=torch.float64)[:, None] * weight
    # The cross-entropy's gradient points at the origin, where all classes tie: the way there is the whole norm. At
    # K = 3 and 10 that is sqrt(2(K-1)/K) = 1.155 and 1.342 exact distances. The margin's gradient points straight out.
    radius = fooling_radius(features, weight, None, labels)
    torch.testing.assert_close(radius, features.norm(dim=1), rtol=4e-3, atol=0)
    exact = boundary_distance(features, weight, None, labels).distance
    assert float((radius / exact).mean()) == pytest.approx((2 * (num_classes - 1) / num_classes) ** 0.5, rel=4e-3)
    straight = fooling_radius(features, weight, None, labels, objective="margin")
    torch.testing.assert_close(straight, exact, rtol=4e-3, atol=0)


def test_with_two_classes_the_gradient_is_the_shortest_way():
    features, weight, bias, labels = head(num_classes=2)
    exact = boundary_distance(features, weight, bias, labels).distance
    torch.testing.assert_close(fooling_radius(features, weight, bias, labels), exact, rtol=4e-3, atol=0)


def test_never_below_the_exact_distance_and_the_attack_succeeds_there():
    features, weight, bias, labels = head()
    labels[:5] = (labels[:5] + 1) % 6  # wrong already
    radius = fooling_radius(features, weight, bias, labels, steps=10)
    exact = boundary_distance(features, weight, bias, labels).distance
    assert (radius[:5] == 0).all() and (radius[5:] >= exact[5:]).all()
    right = radius.isfinite() & (radius > 0)
    assert right.sum() == 75
    again = feature_attack(features[right], weight, bias, labels[right], eps=radius[right], steps=10)
    assert again.success.all()
    short = feature_attack(features[right], weight, bias, labels[right], eps=0.99 * radius[right], steps=10)
    assert short.success.double().mean() < 0.2  # success is not quite monotone in the radius


def test_what_no_attack_reaches_is_infinite():
    weight, bias = torch.ones(2, 3, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    features = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert fooling_radius(features, weight, bias, torch.zeros(4, dtype=torch.int64)).isinf().all()


@pytest.mark.parametrize("options", [{"largest": 1.0}, {"halvings": 0}, {"steps": 0}])
def test_bad_settings_are_named(options):
    features, weight, bias, labels = head()
    with pytest.raises(ValueError, match=next(iter(options))):
        fooling_radius(features, weight, bias, labels, **options)
