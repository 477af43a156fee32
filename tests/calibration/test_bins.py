import numpy as np
import pytest
import torch

from regfast.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    ece_interval,
    ece_statistic,
    expected_calibration_error,
    reliability_bins,
)


def predictions(n=1000, num_classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(2 * torch.randn(n, num_classes, generator=generator, dtype=torch.float64), 1)
    labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    return probabilities, labels


def textbook_ece(confidence, correct, bins):
    total = 0.0
    for i in range(bins):
        low, high = i / bins, (i + 1) / bins
        chosen = (confidence >= low) & ((confidence < high) | ((i == bins - 1) & (confidence == 1)))
        if chosen.any():
            total += chosen.mean() * abs(correct[chosen].mean() - confidence[chosen].mean())
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_is_the_textbook_sum(bins):
    probabilities, labels = predictions()
    confidence, prediction = probabilities.max(dim=1)
    correct = prediction == labels
    expected = textbook_ece(confidence.numpy(), correct.numpy().astype(float), bins)
    assert expected_calibration_error(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)
    assert expected_calibration_error(confidence.numpy(), correct.numpy(), bins) == pytest.approx(expected, abs=1e-12)


def test_ece_closed_forms():
    # One bin: right half of the time at confidence 0.9.
    assert expected_calibration_error(torch.full((10,), 0.9), torch.arange(10) % 2) == pytest.approx(0.4, abs=1e-7)
    # Calibrated exactly: confidence 0.75, three of four right.
    assert expected_calibration_error(torch.full((4,), 0.75), torch.tensor([1, 1, 1, 0])) == 0


def test_confidence_of_exactly_one_is_in_the_last_bin():
    # The case of torchmetrics issue 3510: one bin of two samples, |0.5 - 0.975|; split in two bins it would be 0.525.
    confidence, correct = torch.tensor([0.95, 1.0]), torch.tensor([True, False])
    assert expected_calibration_error(confidence, correct, 15) == pytest.approx(0.475, abs=1e-7)
    diagram = reliability_bins(confidence, correct, 15)
    assert diagram.counts.tolist() == [0] * 14 + [2]
    assert (diagram.accuracy[-1], len(diagram.edges)) == (0.5, 16)
    # A confidence of exactly 0 and of an inner edge have their bins too.
    assert reliability_bins(np.array([0.0, 0.5, 1.0]), np.array([1, 0, 1]), 2).counts.tolist() == [1, 2]


def test_reliability_bins_sum_up_to_the_ece():
    probabilities, labels = predictions(seed=3)
    confidence, prediction = probabilities.max(dim=1)
    diagram = reliability_bins(confidence, prediction == labels)
    assert diagram.counts.sum() == 1000
    gap = np.abs(np.nan_to_num(diagram.accuracy - diagram.confidence)) * diagram.counts / 1000
    assert gap.sum() == pytest.approx(expected_calibration_error(confidence, prediction == labels), abs=1e-12)
    assert np.isnan(diagram.accuracy[diagram.counts == 0]).all()


def test_agrees_with_torchmetrics_below_one():
    pytest.importorskip("regfast.models._torchvision")
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    probabilities, labels = predictions(seed=1)
    confidence, prediction = probabilities.max(dim=1)
    expected = metrics.multiclass_calibration_error(probabilities, labels, 5, n_bins=15, norm="l1")
    assert float(confidence.max()) < 1
    assert expected_calibration_error(confidence, prediction == labels) == pytest.approx(float(expected), abs=1e-6)


def test_adaptive_bins_hold_equal_counts():
    confidence = np.array([0.1, 0.2, 0.6, 0.7, 0.8, 0.95])
    correct = np.array([0, 1, 0, 1, 1, 1])
    expected = (abs(1 - 0.3) + abs(1 - 1.3) + abs(2 - 1.75)) / 6
    assert adaptive_calibration_error(confidence, correct, 3) == pytest.approx(expected)
    # Fewer samples than bins: every sample its own bin.
    expected = np.abs(correct - confidence).mean()
    assert adaptive_calibration_error(confidence, correct, 15) == pytest.approx(expected)


def test_adaptive_does_not_depend_on_the_order_of_ties():
    rng = np.random.default_rng(0)
    confidence, correct = rng.choice([0.5, 0.7, 0.9], 100), rng.random(100) < 0.7
    order = rng.permutation(100)
    value = adaptive_calibration_error(confidence, correct)
    assert adaptive_calibration_error(confidence[order], correct[order]) == pytest.approx(value, abs=1e-12)


def test_classwise_is_the_mean_of_one_against_the_rest():
    probabilities, labels = predictions(seed=2)
    expected = np.mean(
        [textbook_ece(probabilities[:, c].numpy(), (labels == c).numpy().astype(float), 15) for c in range(5)]
    )
    assert classwise_calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)
    # Saturated in float32, all right: no error at all.
    assert classwise_calibration_error(torch.eye(3), torch.arange(3)) == 0


def test_ece_interval_is_the_bootstrap_of_the_same_number():
    probabilities, labels = predictions(400, seed=4)
    confidence, prediction = probabilities.max(dim=1)
    correct = prediction == labels
    interval = ece_interval(0.9 * confidence, correct, resamples=500, seed=1)
    assert interval.estimate == pytest.approx(expected_calibration_error(0.9 * confidence, correct), abs=1e-12)
    assert interval.low < interval.estimate < interval.high
    rows = np.stack([confidence.numpy(), correct.numpy()], axis=1)
    several = ece_statistic(15)(np.stack([rows, rows[::-1], np.roll(rows, 5, axis=0)]))
    np.testing.assert_allclose(several, several[0], atol=1e-12)


def test_bad_input_is_named():
    for values in ([1.2], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match=r"confidence must lie in \[0, 1\]"):
            expected_calibration_error(torch.tensor(values), torch.tensor([True]))
    with pytest.raises(ValueError, match="no samples"):
        expected_calibration_error(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match=r"both be \(n,\)"):
        reliability_bins(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match="bools"):
        reliability_bins(torch.zeros(1), torch.tensor([2]))
    for function in (expected_calibration_error, adaptive_calibration_error, reliability_bins):
        with pytest.raises(ValueError, match="bins"):
            function(torch.zeros(1), torch.zeros(1), 0)
    with pytest.raises(ValueError, match="softmax"):
        classwise_calibration_error(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(IndexError, match="labels"):
        classwise_calibration_error(torch.eye(3), torch.tensor([0, 1, 3]))
    with pytest.raises(TypeError, match="integers"):
        classwise_calibration_error(torch.eye(3), torch.zeros(3))
