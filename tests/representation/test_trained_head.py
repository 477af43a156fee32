"""The mathematics on a real head: the last layer of a CIFAR-10 ResNet-20, where its weights are at hand."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regfast.representation import (
    class_centers,
    feature_geometry,
    max_margin_direction,
    neural_collapse,
    radius_sensitivity,
    row_space,
    theorem1,
)

CHECKPOINT = Path(__file__).parents[3] / "shared" / "data" / "resnet20_cifar10.safetensors"


@pytest.fixture(scope="module")
def head():
    if not CHECKPOINT.exists():
        pytest.skip("no shared/data/resnet20_cifar10.safetensors beside the repository")
    tensors = load_file(CHECKPOINT)
    return tensors["linear.weight"], tensors["linear.bias"]


def test_centers_lie_in_their_own_region_and_near_their_weights(head):
    weight, bias = head
    centers = class_centers(weight, bias, radius=7.5)
    assert float(centers.gap.max()) <= 1e-7
    logits = centers.points @ weight.double().T + bias.double()
    assert torch.equal(logits.argmax(1), torch.arange(10))
    geometry = feature_geometry(centers.points, weight, weight, torch.arange(10), bias=bias)
    assert float(geometry.share_in_span.min()) > 1 - 1e-9
    assert float(geometry.cosine_in_span.min()) > 0.9


def test_rank_and_radius(head):
    weight, bias = head
    assert len(row_space(weight)) == 9
    assert not bool(max_margin_direction(weight).isnan().any())
    result = radius_sensitivity(weight, bias, [0.75, 7.5, 75.0, 750.0])
    assert bool((result.angle.diff(dim=0).mean(dim=1) > 0).all())
    assert float((result.angle[-1] - result.angle_limit).abs().max()) < 0.02


def test_the_projection_never_grows(head):
    weight, bias = head
    for ridge in (0.1, 1e-3):
        result = theorem1(weight, bias, [0.0, 0.01, 0.1, 0.3, 0.7, 1.0], ridge=ridge)
        assert not bool(result.projection_rises().any())


def test_collapse_of_features_at_the_centers_is_small(head):
    weight, bias = head
    points = class_centers(weight, bias, radius=7.5).points
    labels = torch.arange(10).repeat(3)
    result = neural_collapse(points[labels], weight, bias, labels)
    assert result.nc1 == pytest.approx(0, abs=1e-9)
    assert result.nc4 == 0
    assert result.nc3 < 0.5
