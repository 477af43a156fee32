import numpy as np
import pytest

from regfast.calibration import smooth_calibration_error, smooth_ece_interval, smooth_reliability


def direct(confidence, correct, width, cells=4000):
    """∫|r̂| by summing reflected Gaussians, with no transform and no grid of residuals."""
    t = (np.arange(cells) + 0.5) / cells
    smoothed = np.zeros(cells)
    for shift in range(-4, 5):
        for image in (confidence + 2 * shift, -confidence + 2 * shift):
            kernel = np.exp(-((t[:, None] - image) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))
            smoothed += kernel @ (confidence - correct) / len(confidence)
    return np.abs(smoothed).mean()


@pytest.mark.parametrize("n", [40, 600])
def test_is_the_fixed_point_of_the_definition(n):
    rng = np.random.default_rng(n)
    confidence = rng.beta(5, 1.5, n)
    correct = rng.random(n) < 0.8 * confidence
    error = smooth_calibration_error(confidence, correct)
    assert direct(confidence, correct, error) == pytest.approx(error, abs=2e-3)


def test_closed_forms():
    # All at one confidence: every smoothing keeps the total residual, so smECE is the gap itself.
    assert smooth_calibration_error(np.full(10, 0.9), np.arange(10) % 2) == pytest.approx(0.4, abs=1e-3)
    assert smooth_calibration_error(np.ones(5), np.ones(5)) <= 1e-3
    assert smooth_calibration_error(np.ones(5), np.zeros(5)) == pytest.approx(1, abs=1e-3)
    assert smooth_calibration_error(np.zeros(5), np.ones(5)) == pytest.approx(1, abs=1e-3)


def test_does_not_jump_where_bins_do():
    rng = np.random.default_rng(0)
    correct = rng.random(400) < 0.6
    below, above = np.full(400, 0.6 - 1e-9), np.full(400, 0.6 + 1e-9)
    assert smooth_calibration_error(below, correct) == pytest.approx(smooth_calibration_error(above, correct), abs=1e-8)


def test_agrees_with_the_authors_package_where_installed():
    relplot = pytest.importorskip("relplot")
    rng = np.random.default_rng(3)
    confidence = rng.beta(4, 1, 3000)
    correct = (rng.random(3000) < confidence**2).astype(float)
    assert smooth_calibration_error(confidence, correct) == pytest.approx(relplot.smECE(confidence, correct), abs=3e-3)


def test_interval_and_diagram_hold_the_truth():
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.3, 1, 3000)
    correct = rng.random(3000) < confidence - 0.06
    interval = smooth_ece_interval(confidence, correct, resamples=100)
    gap = 0.06
    assert interval.low < gap < interval.high
    diagram = smooth_reliability(confidence, correct, resamples=100)
    assert diagram.density.mean() == pytest.approx(1)
    inner = (diagram.confidence > 0.45) & (diagram.confidence < 0.85)
    truth = diagram.confidence[inner] - 0.06
    assert np.abs(diagram.accuracy[inner] - truth).max() < 0.08
    assert np.mean((diagram.low[inner] <= truth) & (truth <= diagram.high[inner])) > 0.6
    assert np.isnan(diagram.accuracy[0])


def test_an_interval_holds_its_own_estimate():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.3, 1, 60)
        found = smooth_ece_interval(confidence, rng.random(60) < confidence, resamples=60, seed=seed)
        assert 0 <= found.low <= found.estimate <= found.high


def test_same_data_same_figure():
    rng = np.random.default_rng(2)
    confidence, correct = rng.random(100), rng.random(100) < 0.5
    first, second = (smooth_reliability(confidence, correct, resamples=20) for _ in range(2))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))
