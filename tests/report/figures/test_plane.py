import numpy as np
import pytest
import torch
from matplotlib.text import Annotation

from regfast.report.figures import fields, plane


@pytest.fixture
def made():
    rng = np.random.default_rng(11)

    def make(name="hard", reach=1.0, far=False):
        centers = rng.normal(size=(3, 2))
        centers[2] *= 500 if far else 1
        features = reach * rng.normal(size=(90, 2))
        labels = rng.integers(0, 3, 90)
        return plane.Plane(
            name,
            rng.normal(size=(3, 2)),
            rng.normal(size=3),
            rng.normal(size=(3, 2)),
            centers,
            features,
            labels,
            features + 0.1,
        )

    return make


def test_the_window_is_the_same_for_all_panels_and_holds_the_features(made):
    planes = [made("hard", 5.0), made("mixup", 1.0)]
    half = plane.window(planes)
    inside = [(np.abs(p.features).max(axis=1) <= half).mean() for p in planes]
    assert min(inside) >= 0.98
    figure = plane.draw([("with bias", planes), ("no bias", planes[:1])])
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == 3
    for axes in panels:
        assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-half, half))
        assert axes.get_aspect() == 1


def test_a_center_outside_the_window_is_an_arrow_at_its_edge(made):
    far = made(far=True)
    half = plane.window([far])
    figure = plane.draw([("with bias", [far])])
    arrows = [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]
    assert len(arrows) == 1
    tip, center = np.array(arrows[0].xy), far.centers[2]
    assert np.abs(tip).max() == pytest.approx(0.97 * half)
    assert tip @ center / np.linalg.norm(tip) / np.linalg.norm(center) == pytest.approx(1)


def test_weight_vectors_are_scaled_by_a_round_factor(made):
    planes = [made()]
    half = plane.window(planes)
    scale = plane.weight_scale(planes, half)
    mantissa = scale / 10 ** np.floor(np.log10(scale) + 1e-9)
    assert round(mantissa, 6) in (1, 2, 5)
    assert scale * np.linalg.norm(planes[0].weight, axis=1).max() <= 0.6 * half


def test_features_must_be_two_dimensional():
    flat = np.zeros((3, 3))
    with pytest.raises(ValueError, match="weight must have shape"):
        plane.Plane("hard", flat, np.zeros(3), np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((4, 2)), np.zeros(4, int))


def test_the_gradient_at_a_feature_is_that_of_the_cross_entropy(made):
    p = made()
    points = torch.tensor(p.features, requires_grad=True)
    weight, bias = p.head()
    torch.nn.functional.cross_entropy(points @ weight.T + bias, torch.full((90,), 2), reduction="sum").backward()
    np.testing.assert_allclose(fields.field_at(p, 2, p.features), points.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_field_figures_share_the_window_and_draw_the_boundary(made):
    planes = [made("hard", 3.0), made("smoothing", 1.0)]
    half = plane.window(planes)
    figure = fields.draw_field(planes, 1)
    for axes in figure.axes[:2]:
        assert axes.get_xlim() == pytest.approx((-half, half))
    low, high = np.array([-0.5, -0.25]), np.array([0.5, 0.75])
    enlarged = fields.draw_confidence(planes[0], 1, zoom=(low, high)).axes[2]
    assert enlarged.get_xlim() == (-0.5, 0.5) and enlarged.get_ylim() == (-0.25, 0.75)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        plane.draw([])
    with pytest.raises(ValueError, match="at least one"):
        fields.draw_field([], 0)


@pytest.mark.parametrize(("count", "last"), [(3, "2"), (10, "9"), (1000, "others")])
def test_the_colors_of_the_classes_have_a_legend(count, last):
    handles = plane.class_handles(count)
    assert [h.get_label() for h in handles][:2] == ["class 0", "1"] and handles[-1].get_label() == last
    assert len({h.get_color() for h in handles}) == min(count, 10)
    assert plane.class_color(count - 1) == handles[-1].get_color()
