import pytest
import torch

from regfast.representation import class_centers, default_radius, feature_geometry, row_space
from regfast.representation.span import pseudoinverse
from tests.representation.closed_forms import random_head, simplex, unit


def test_raw_figures_match_their_definitions():
    weight, bias = random_head(5, 12)
    features = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 5
    centers = class_centers(weight, bias, radius=2.0)
    geometry = feature_geometry(features, weight, centers, labels, bias=bias)
    logits = features.double() @ weight.T + bias
    cosines = torch.nn.functional.cosine_similarity(features.double()[:, None], centers.points[None], dim=2)
    torch.testing.assert_close(geometry.rms, features.double().pow(2).mean(dim=1).sqrt())
    torch.testing.assert_close(geometry.cosine, cosines[torch.arange(40), labels])
    torch.testing.assert_close(geometry.cosine_predicted, cosines[torch.arange(40), logits.argmax(1)])
    given = feature_geometry(features, weight, centers.points, labels, labels)
    torch.testing.assert_close(given.cosine_predicted, given.cosine)


def test_in_span_figures_of_a_known_split():
    # The head reads dimensions 0 and 1 only; dimension 2 is common to all classes and dimension 3 is never read.
    weight = torch.cat([simplex(3, 3)[:, :], torch.zeros(3, 1).double()], dim=1)
    basis = row_space(weight)
    assert basis.shape == (2, 4)
    inside, outside = 3 * unit(weight[0]), torch.tensor([0.0, 0.0, 0.0, 4.0]).double()
    geometry = feature_geometry((inside + outside)[None], weight + 7.0, weight, torch.tensor([0]))
    assert float(geometry.rms) == pytest.approx(5 / 2)
    assert float(geometry.rms_in_span) == pytest.approx(3 / 2)
    assert float(geometry.share_in_span) == pytest.approx(3 / 5)
    assert float(geometry.cosine) == pytest.approx(3 / 5)
    assert float(geometry.cosine_in_span) == pytest.approx(1)


def test_raw_cosine_is_in_span_cosine_times_share():
    weight, bias = random_head(10, 64, seed=3)
    features = torch.randn(100, 64, generator=torch.Generator().manual_seed(2))
    geometry = feature_geometry(features, weight, class_centers(weight, bias, radius=5.0), torch.arange(100) % 10)
    torch.testing.assert_close(geometry.cosine, geometry.cosine_in_span * geometry.share_in_span)


def test_what_leaves_the_span_changes_no_probability():
    weight, bias = random_head(6, 20, seed=4)
    features = torch.randn(30, 20, generator=torch.Generator().manual_seed(2)).double()
    basis = row_space(weight)
    torch.testing.assert_close(
        torch.softmax(features @ basis.T @ basis @ weight.T + bias, 1), torch.softmax(features @ weight.T + bias, 1)
    )


def test_row_space_has_the_rank_of_the_head():
    weight, _ = random_head(10, 4)
    assert row_space(weight).shape == (4, 4)
    assert row_space(torch.ones(4, 6)).shape == (0, 6)
    flat = torch.randn(10, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 50)
    assert row_space(flat.double()).shape[0] <= 9
    basis = row_space(random_head(8, 30)[0])
    torch.testing.assert_close(basis @ basis.T, torch.eye(7).double())


@pytest.mark.parametrize(("num_classes", "dim"), [(8, 30), (8, 7), (8, 3), (2, 1), (1, 4)])
def test_pseudoinverse_and_rank(num_classes, dim):
    weight, _ = random_head(num_classes, dim)
    centered = weight - weight.mean(0)
    inverse, rank = pseudoinverse(weight)
    torch.testing.assert_close(inverse, torch.linalg.pinv(centered, rtol=1e-12))
    assert rank == len(row_space(weight)) == min(num_classes - 1, dim)
    # Two classes that share their weights: one dimension less, and nothing is inverted that is not there.
    if num_classes == 8:
        weight[1] = weight[0]
        inverse, rank = pseudoinverse(weight)
        assert rank == len(row_space(weight)) == min(6, dim)
        torch.testing.assert_close(inverse, torch.linalg.pinv(weight - weight.mean(0), rtol=1e-12))


def test_a_feature_without_direction_has_no_cosine():
    weight, _ = random_head(3, 5)
    geometry = feature_geometry(torch.zeros(1, 5), weight, weight, torch.tensor([1]))
    assert float(geometry.rms) == 0
    assert (float(geometry.cosine), float(geometry.cosine_in_span), float(geometry.share_in_span)) == (0, 0, 0)
    broken = feature_geometry(torch.full((1, 5), float("nan")), weight, weight, torch.tensor([1]))
    assert all(bool(value.isnan().all()) for value in broken)
    assert feature_geometry(torch.zeros(0, 5), weight, weight, torch.zeros(0, dtype=torch.int64)).rms.shape == (0,)


def test_default_radius_is_the_median_norm_of_what_is_right():
    features = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]))
    correct = torch.tensor([True, True, True, True, False])
    assert default_radius(features, correct) == pytest.approx(2.5)
    assert default_radius(features, torch.zeros(5, dtype=torch.bool)) == pytest.approx(3.0)  # nothing is right: all
    with pytest.raises(ValueError, match=r"features must have shape \(B, d\) with B ≥ 1, got"):
        default_radius(features[:0], correct[:0])
    with pytest.raises(ValueError, match="correct must have shape"):
        default_radius(features, correct[:3])


def test_bad_input_is_named():
    weight, _ = random_head(3, 5)
    features = torch.zeros(2, 5)
    with pytest.raises(IndexError, match="labels"):
        feature_geometry(features, weight, weight, torch.tensor([0, 3]))
    with pytest.raises(IndexError, match="predictions"):
        feature_geometry(features, weight, weight, torch.tensor([0, 2]), torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="labels"):
        feature_geometry(features, weight, weight, torch.tensor([0]))
    with pytest.raises(ValueError, match="features"):
        feature_geometry(features[:, :4], weight, weight, torch.tensor([0, 1]))
