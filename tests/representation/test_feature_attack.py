import pytest
import torch

from regfast.representation import boundary_distance, feature_attack, row_space
from tests.representation.closed_forms import random_head, simplex, unit


def right_features(weight, bias, n=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, weight.shape[1], generator=generator, dtype=torch.float64)
    return features, (features @ weight.T + bias).argmax(1)


@pytest.mark.parametrize(("num_classes", "dim"), [(2, 1), (6, 3), (6, 40)])
def test_success_is_what_the_exact_distance_says(num_classes, dim):
    weight, bias = random_head(num_classes, dim, seed=dim)
    features, labels = right_features(weight, bias)
    way = boundary_distance(features, weight, bias, labels)
    eps = float(way.distance.sort().values[49:51].mean())  # no sample's own distance: on a tie rounding decides
    result = feature_attack(features, weight, bias, labels, eps=eps, steps=100, objective="margin")
    # Nothing nearer than eps may resist an attack that follows the nearest rival, nothing farther may fall.
    assert not bool(result.success[way.distance > eps * (1 + 1e-9)].any())
    assert float(result.success[way.distance < 0.95 * eps].double().mean()) >= 0.95
    assert torch.equal(result.success, ~result.robust)
    moved = (result.features - features).norm(dim=1)
    assert float(moved.max()) <= eps * (1 + 1e-12)
    assert torch.equal((result.features @ weight.T + bias).argmax(1) != labels, result.success)


def test_the_loop_is_plain_pgd():
    weight, bias = random_head(5, 20, seed=7)
    features, labels = right_features(weight, bias, 30, seed=1)
    for norm, eps in (("l2", 0.3), ("linf", 0.1)):
        delta = torch.zeros_like(features)
        for _ in range(4):
            point = (features + delta).requires_grad_()
            loss = torch.nn.functional.cross_entropy(point @ weight.T + bias, labels, reduction="none")
            slope = torch.autograd.grad(loss.sum(), point)[0]
            step = 2.5 * eps / 4 * (unit(slope) if norm == "l2" else slope.sign())
            delta = (delta + step).clamp(-eps, eps) if norm == "linf" else delta + step
            if norm == "l2":
                delta = delta * (eps / delta.norm(dim=1, keepdim=True)).clamp(max=1)
        result = feature_attack(features, weight, bias, labels, eps=eps, steps=4, norm=norm)
        last = result.robust
        assert bool(last.any())
        torch.testing.assert_close(result.features[last], (features + delta)[last])


def test_l2_stays_in_the_span_of_the_head():
    weight, bias = random_head(4, 25, seed=3)
    features, labels = right_features(weight, bias)
    moved = feature_attack(features, weight, bias, labels, eps=0.5, steps=5).features - features
    basis = row_space(weight)
    torch.testing.assert_close(moved @ basis.T @ basis, moved)


def test_the_gradient_of_an_etf_points_at_the_origin():
    weight = simplex(5, 9)
    labels = torch.arange(5)
    # The boundary is sqrt(5/8) = 0.79 away, but along the cross-entropy gradient it is the whole length, at the origin.
    exact = feature_attack(unit(weight), weight, None, labels, eps=0.95, objective="margin", steps=50)
    misled = feature_attack(unit(weight), weight, None, labels, eps=0.95, step_size=0.95, steps=1)
    assert bool(exact.success.all())
    assert not bool(misled.success.any())
    torch.testing.assert_close(misled.features, 0.05 * unit(weight))


def test_saturated_and_wrong_samples_and_radius_zero():
    weight = simplex(3, 3)
    features, labels = 500 * weight[[0, 0]], torch.tensor([0, 1])
    result = feature_attack(features, weight.float(), None, labels, eps=torch.tensor([600.0, 600.0]), steps=10)
    assert result.success.tolist() == [True, False]
    assert result.robust.tolist() == [False, False]
    torch.testing.assert_close(result.features[1], features[1])
    still = feature_attack(features, weight, None, labels, eps=0.0, steps=3)
    torch.testing.assert_close(still.features, features)


def test_bad_input_is_named():
    weight, bias = random_head(3, 4)
    features, labels = right_features(weight, bias, 2)
    for options, match in (
        ({"eps": -1.0}, "eps"),
        ({"eps": torch.zeros(3)}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"eps": torch.tensor([1.0, -1.0])}, "eps must be at least 0, got -1"),
        ({"eps": 1.0, "steps": 0}, "steps"),
        ({"eps": 1.0, "norm": "l1"}, "norm"),
        ({"eps": 1.0, "objective": "dlr"}, "objective"),
    ):
        with pytest.raises(ValueError, match=match):
            feature_attack(features, weight, bias, labels, **options)
