import dataclasses

import numpy as np
import pytest

from regfast.report import style
from regfast.report.figures import (
    curves,
    distributions,
    dots,
    glance,
    matrix,
    radius,
    representation,
    scaling,
    sweep,
    theorem1,
)


def test_smallest_eps_is_interpolated():
    eps = np.array([0.0, 0.1, 0.2])
    assert sweep.smallest_eps(eps, np.array([0.0, 0.25, 0.75])) == pytest.approx(0.15)
    assert sweep.smallest_eps(eps, np.array([0.6, 0.7, 0.8])) == 0.0
    assert np.isnan(sweep.smallest_eps(eps, np.array([0.0, 0.1, 0.2])))


def test_rising_norms_and_projections_are_counted():
    falling = np.linspace(3, 1, 5)
    norm = np.stack([falling, falling[::-1], falling])
    head = theorem1.Minimizers(norm, np.stack([falling] * 3))
    assert theorem1.rising(head) == (1, 0)
    assert theorem1.rising(theorem1.Minimizers(norm[:1], norm[:2])) == (0, 1)


def test_every_line_has_its_regularizers_color():
    eps = np.linspace(0, 0.1, 5)
    rates = {name: np.tile(eps * 10, (2, 1)) for name in ("hard", "mixup", "mine")}
    lines = sweep.draw(eps, rates).axes[0].get_lines()
    names = list(rates)
    assert [line.get_color() for line in lines] == [style.color(n, names) for n in names]
    assert len({line.get_marker() for line in lines}) == 3


def test_curves_show_mean_and_band_over_seeds():
    epochs = {"hard": np.arange(1, 5)}
    values = np.array([[0.0, 1, 2, 3], [2.0, 3, 4, 5]])
    axes = curves.draw(epochs, {"loss": {"hard": values}}).axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), values.mean(axis=0))
    low, high = axes.collections[0].get_datalim(axes.transData).get_points()[:, 1]
    assert (low, high) == (0, 5)


def test_a_dot_is_hollow_when_its_interval_contains_zero():
    figure = dots.draw({"a": {"hard": {"x": (0.3, 0.1, 0.5), "y": (0.1, -0.1, 0.3)}}}, "r", ["x", "y"])
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [mark.get_markerfacecolor() for mark in marks] == [style.color("hard"), style.PAPER]


def test_histograms_are_shares_and_outsiders_land_in_the_last_bin():
    values = {"a": {"hard": np.array([-5.0, 0.1, 0.2, 9.0, np.nan])}}
    figure = distributions.draw(values, np.linspace(-1, 1, 5), "x")
    shares = figure.axes[0].patches[0].get_data().values
    np.testing.assert_allclose(shares, [0.25, 0, 0.5, 0.25])


def test_matrix_writes_every_number_and_leaves_nan_empty():
    table = np.array([[0.125, 0.5], [np.nan, 1.0]])
    texts = [t.get_text() for t in matrix.draw({"ECE": table}, ["hard", "mixup"], "rows", "columns").axes[0].texts]
    assert texts == ["0.125", "0.5", "1"]


def test_scaling_marks_each_optimum():
    scales = np.array([0.5, 1.0, 2.0])
    ece = {"hard": {"temperature": np.array([[0.1, 0.2, 0.3]]), "feature": np.array([[0.3, 0.2, 0.1]])}}
    changed = {"hard": {"temperature": np.zeros((1, 3)), "feature": np.array([[0.1, 0.0, 0.1]])}}
    top = scaling.draw(scales, ece, changed).axes[0]
    marks = [(float(line.get_xdata()[0]), line.get_marker()) for line in top.get_lines() if line.get_marker() in "oD"]
    assert marks == [(0.5, "o"), (2.0, "D")]


def test_radius_angles_are_shown_in_degrees():
    grid = np.array([0.1, 1.0, 10.0])
    tables = {"hard": np.full((4, 3), np.pi / 6)}
    left = radius.draw(grid, tables, {"hard": np.full(4, np.pi / 3)}, tables).axes[0]
    np.testing.assert_allclose(left.get_lines()[0].get_ydata(), 30)


def model(name, rng, n=120):
    correct = rng.random(n) < 0.7
    return representation.Model(
        name,
        rng.uniform(0.2, 0.8, n),
        rng.uniform(-0.2, 0.9, n),
        rng.uniform(0.3, 1, n),
        correct,
        correct,
        {"pgd": correct & (rng.random(n) < 0.5)},
        0.1,
    )


@pytest.mark.parametrize("count", [1, 4, 6])
def test_any_number_of_models_share_their_axes(count):
    rng = np.random.default_rng(5)
    models = [model(f"model-{k}", rng) for k in range(count)]
    attack = representation.attack_style({"id": "pgd", "attack": "pgd", "norm": "linf", "eps": 0.03, "setting": "weak"})
    figure = representation.draw(models, [attack])
    rows = [figure.axes[k * count : (k + 1) * count] for k in range(4)]
    for row in rows:
        assert len({axes.get_xlim() for axes in row}) == len({axes.get_ylim() for axes in row}) == 1
    assert (attack.marker, attack.strong) == ("o", False)


def test_a_panel_without_attacked_samples_says_so():
    few = dataclasses.replace(model("few", np.random.default_rng(5)), judged=np.arange(120) < 9)
    attack = representation.attack_style({"id": "pgd", "attack": "pgd", "norm": "linf", "eps": 0.03})
    for panel in (representation.draw([few], [attack]).axes[1], glance.draw([few], attack).axes[1]):
        assert [text.get_text() for text in panel.texts] == ["fewer than 10 correct\nsamples were attacked"]


def test_bars_of_the_reliability_diagram_are_as_opaque_as_their_share():
    confidence = np.r_[np.full(90, 0.95), np.full(10, 0.5)]
    one = representation.Model("hard", confidence, confidence, confidence, confidence > 0.6, confidence > 0.6, {}, 0.1)
    bars = representation.draw([one], []).axes[3].patches
    assert [round(bar.get_x() + bar.get_width() / 2, 3) for bar in bars] == [0.5, 0.967]
    assert bars[0].get_alpha() == pytest.approx(0.15 + 0.85 / 9)
    assert bars[1].get_alpha() == pytest.approx(1.0)


def test_no_model_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        representation.draw([], [])


def test_of_a_thousand_classes_the_median_and_those_that_rise_most_are_drawn():
    smoothing = np.linspace(0.1, 0.5, 5)
    falling = np.tile(2 - smoothing, (1000, 1))
    norm = falling + np.linspace(0, 4, 1000)[:, None] * smoothing
    figure = theorem1.draw(smoothing, {"trained": theorem1.Minimizers(norm, falling)})
    upper, lower = figure.axes
    assert (len(upper.get_lines()), len(lower.get_lines())) == (1 + theorem1.RISING + 1, 2)  # median, rising, zero
    steepest = max(line.get_ydata()[-1] for line in upper.get_lines())
    assert steepest == pytest.approx((norm[-1] / norm[-1, 0])[-1])
