import numpy as np
import pytest
import torch

from regfast.calibration import (
    adaptive_calibration_error,
    adaptive_ece_statistic,
    classwise_calibration_error,
    classwise_ece_statistic,
    ece_interval,
    ece_statistic,
    expected_calibration_error,
    reliability_bins,
)
from regfast.calibration.bins import weighted_classwise_ece
from regfast.statistics import bootstrap_interval, counted_interval


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


def calibrated(n, seed):
    """A model that is right as often as it says: every error that is measured is noise."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.3, 1, n)
    return confidence, rng.random(n) < confidence


def test_an_interval_holds_its_own_estimate_where_percentiles_miss_it():
    missed = 0
    for seed in range(20):
        confidence, correct = calibrated(120, seed)
        found = ece_interval(confidence, correct, resamples=200, seed=seed)
        assert 0 <= found.low <= found.estimate <= found.high
        rows = np.stack([confidence, correct], axis=1)
        percentile = bootstrap_interval(rows, ece_statistic(), resamples=200, seed=seed)
        missed += percentile.low > percentile.estimate
        # Mirrored at the estimate, where that holds it: eq. 5.6 of Davison and Hinkley.
        assert found.high == pytest.approx(max(found.estimate, 2 * found.estimate - percentile.low))
        assert found.low == pytest.approx(max(0, min(found.estimate, 2 * found.estimate - percentile.high)))
    assert missed > 0


def test_an_interval_covers_the_truth_more_often_than_percentiles():
    # Right 0.02 less often than it says, everywhere: that is the ECE in truth, whatever the bins.
    covered = {"basic": 0, "percentile": 0}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.4, 0.95, 200)
        rows = np.stack([confidence, rng.random(200) < confidence - 0.02], axis=1)
        for method in covered:
            found = bootstrap_interval(rows, ece_statistic(), resamples=200, seed=seed, method=method)
            covered[method] += found.low <= 0.02 <= found.high
    assert covered["basic"] > 0.6 * 60 and covered["percentile"] < 0.2 * 60


def test_statistics_are_the_plain_errors_of_every_resample():
    probabilities, labels = predictions(90, seed=5)
    probabilities = probabilities.round(decimals=1).clamp(min=0.01)  # ties
    probabilities = (probabilities / probabilities.sum(1, keepdim=True)).numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    drawn = np.random.default_rng(1).integers(90, size=(4, 90))
    rows = np.stack([confidence, right], axis=1)[drawn]
    joined = np.column_stack([probabilities, labels.numpy()])[drawn]
    for r, pick in enumerate(drawn):
        one = adaptive_calibration_error(confidence[pick], right[pick], 7)
        assert adaptive_ece_statistic(7)(rows)[r] == pytest.approx(one, abs=1e-12)
        each = [textbook_ece(probabilities[pick, k], (labels.numpy()[pick] == k).astype(float), 7) for k in range(5)]
        assert classwise_ece_statistic(7)(joined)[r] == pytest.approx(np.mean(each), abs=1e-12)


def test_bad_input_is_named():
    for values in ([1.2], [-0.1], [float("nan")]):
        with pytest.raises(ValueError, match=r"confidence must lie in \[0, 1\]"):
            expected_calibration_error(torch.tensor(values), torch.tensor([True]))
    with pytest.raises(ValueError, match="no samples"):
        expected_calibration_error(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="correct must have shape"):
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


def test_borders_are_i_over_bins_as_written():
    """0.3 and 0.35 both lie in [0.3, 0.4): |5 - 3.25| / 10."""
    confidence, correct = np.array([0.3] * 5 + [0.35] * 5), np.array([1] * 5 + [0] * 5)
    assert expected_calibration_error(confidence, correct, 10) == pytest.approx(0.175, abs=1e-12)
    assert reliability_bins(confidence, correct, 10).edges[3] == 0.3


def test_ignored_samples_and_single_columns():
    generator = torch.Generator().manual_seed(0)
    table = torch.softmax(torch.randn(60, 4, generator=generator), 1)
    labels = torch.randint(4, (60,), generator=generator)
    kept = torch.arange(60) % 3 > 0
    marked = torch.where(kept, labels, -100)
    assert classwise_calibration_error(table, marked) == classwise_calibration_error(table[kept], labels[kept])
    with pytest.raises(IndexError, match="labels must lie in 0"):
        classwise_calibration_error(table, marked, ignore_index=9)
    with pytest.raises(ValueError, match="K >= 2 classes"):
        classwise_calibration_error(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("method", ["percentile", "basic"])
def test_weighted_classwise_ece_bootstraps_as_resampled_rows_do(method):
    generator = np.random.default_rng(3)
    tables = [generator.dirichlet(np.full(30, 0.2), 40) for _ in range(3)]
    labels = [generator.integers(30, size=40) for _ in range(3)]

    def statistic(group, weights):
        parts = [slice(start, start + 16) for start in range(0, 40, 16)]
        chunks = [(np.arange(40)[part], tables[group][part], labels[group][part]) for part in parts]
        return weighted_classwise_ece(chunks, weights, 30)

    rows = [np.column_stack([table, label]) for table, label in zip(tables, labels, strict=True)]
    expected = bootstrap_interval(rows, classwise_ece_statistic(), resamples=50, grouped=True, shared_samples=True,
                                  method=method)  # fmt: skip
    found = counted_interval(statistic, 3, 40, resamples=50, method=method)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)  # sums of 40 terms of at most 1, over 40
