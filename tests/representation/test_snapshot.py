import math

import pytest
import torch

from regfast.representation import (
    boundary_distance,
    class_centers,
    default_radius,
    feature_geometry,
    neural_collapse,
    simplex_etf,
    snapshot,
)
from tests.representation.closed_forms import random_head, unit


def test_every_number_is_its_measures():
    weight, bias = random_head(4, 7, seed=1)
    labels = torch.arange(80) % 4
    features = torch.randn(80, 7, generator=torch.Generator().manual_seed(0)) + weight[labels].float()
    row = snapshot(features, weight, bias, labels)
    correct = (features.double() @ weight.T + bias).argmax(1) == labels
    assert row["accuracy"] == pytest.approx(float(correct.double().mean()))
    assert row["radius"] == default_radius(features, correct)
    centers = class_centers(weight, bias, radius=row["radius"])
    geometry = feature_geometry(features, weight, centers, labels, bias=bias)
    for name, value in geometry._asdict().items():
        assert row[name] == pytest.approx(float(value.mean()))
    way = boundary_distance(features, weight, bias, labels)
    assert row["gradient_distance"] == pytest.approx(float(way.gradient_distance[correct].median()))
    for name, value in neural_collapse(features, weight, bias, labels)._asdict().items():
        assert row[name] == value
    assert snapshot(features, weight, bias, labels) == row


def test_full_collapse():
    weight = simplex_etf(5, 6, weight_norm=2.0)
    row = snapshot(3 * unit(weight), weight, None, torch.arange(5))
    assert row["accuracy"] == 1
    assert row["radius"] == pytest.approx(3)
    assert row["cosine"] == pytest.approx(1, abs=1e-6)
    assert row["distance"] == pytest.approx(3 * math.sqrt(5 / 8))
    assert row["gradient_distance"] == pytest.approx(3)
    assert row["nc1"] == pytest.approx(0, abs=1e-12)


def test_nothing_right_has_no_distance():
    weight = simplex_etf(2)
    row = snapshot(weight, weight, None, torch.tensor([1, 0]))
    assert row["accuracy"] == 0
    assert math.isnan(row["distance"])
    assert row["radius"] == pytest.approx(1)
