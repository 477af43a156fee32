import numpy as np
import pytest
from scipy import stats

from regfast.statistics import (
    bootstrap_interval,
    mcnemar,
    paired_difference,
    partial_correlation,
    ranks,
    wilson_interval,
)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 400)
    interval = bootstrap_interval(values, resamples=4000, seed=1)
    error = values.std() / np.sqrt(len(values))
    assert interval.estimate == pytest.approx(values.mean(), abs=1e-12)
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.random(100) < 0.3, confidence=0.9, resamples=400, seed=trial)[1:]
        hits += low <= 0.3 <= high
    assert 0.82 <= hits / 200 <= 0.96


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random((50, 2))
    first = bootstrap_interval(values, resamples=300, seed=7)
    assert all(
        np.array_equal(a, b) for a, b in zip(first, bootstrap_interval(values, resamples=300, seed=7), strict=True)
    )
    assert not np.array_equal(first.low, bootstrap_interval(values, resamples=300, seed=8).low)
    assert first.estimate.shape == first.low.shape == (2,)


def test_groups_widen_the_interval_by_what_differs_between_them():
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 1, 20)
    groups = [offset + rng.normal(0, 0.1, 50) for offset in offsets]
    interval = bootstrap_interval(groups, grouped=True, resamples=4000, seed=0)
    means = np.array([group.mean() for group in groups])
    assert interval.estimate == pytest.approx(means.mean())
    # Variance of a resample: between groups, plus within, over the number of groups.
    spread = np.sqrt((means.var() + 0.01 / 50) / len(groups))
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(spread, rel=0.06)


def test_shared_samples_keep_what_the_groups_have_in_common():
    # Every group is the same data: resampling it apart averages the noise away, resampling it together must not.
    values = np.random.default_rng(0).normal(size=300)
    together = bootstrap_interval([values] * 4, grouped=True, shared_samples=True, resamples=4000)
    alone = bootstrap_interval(values, resamples=4000)
    apart = bootstrap_interval([values] * 4, grouped=True, resamples=4000)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.06)
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / 2, rel=0.06)


def test_paired_difference_cancels_what_is_common():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 10, 200)
    first, second = common + rng.normal(0, 0.1, 200), common + 0.5
    interval = paired_difference(first, second, resamples=2000)
    assert interval.estimate == pytest.approx((first - second).mean())
    assert interval.high - interval.low < 0.05
    grouped = paired_difference([first, second], [second, first], grouped=True, resamples=500)
    assert grouped.estimate == pytest.approx(0, abs=1e-12)


def test_bootstrap_takes_any_statistic():
    values = np.random.default_rng(0).exponential(size=501)
    interval = bootstrap_interval(values, lambda rows: np.median(rows, axis=1), seed=0)
    assert interval.estimate == np.median(values)
    # The interval of a median is known without resampling: order statistics n/2 ± 1.96·sqrt(n)/2.
    order = np.sort(values)
    assert order[250 - 22 - 4] <= interval.low <= order[250 - 22 + 4]
    assert order[250 + 22 - 4] <= interval.high <= order[250 + 22 + 4]


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 17), (512, 1000), (1, 1)])
def test_wilson_matches_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(0.9, method="wilson")
    interval = wilson_interval(successes, n, 0.9)
    assert interval.estimate == successes / n
    np.testing.assert_allclose([interval.low, interval.high], [expected.low, expected.high], atol=1e-12)


def test_wilson_of_nothing_and_of_arrays():
    interval = wilson_interval([0, 5], [0, 10])
    assert np.isnan(interval.estimate[0])
    assert (interval.low[0], interval.high[0]) == (0, 1)
    assert interval.low[1] == pytest.approx(wilson_interval(5, 10).low)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 12), (12, 3), (7, 7), (300, 240)])
def test_mcnemar_is_the_exact_binomial_test(counts):
    only_first, only_second = counts
    first = np.array([True] * only_first + [False] * only_second + [True, False])
    second = np.array([False] * only_first + [True] * only_second + [True, False])
    result = mcnemar(first, second)
    total = only_first + only_second
    assert (result.only_first, result.only_second) == counts
    assert result.p_value == pytest.approx(stats.binomtest(only_first, total).pvalue if total else 1.0, rel=1e-9)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one sample"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="at least one group"):
        bootstrap_interval([], grouped=True)
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0], confidence=95)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_interval([1.0], resamples=0)
    with pytest.raises(ValueError, match="same samples in every group"):
        bootstrap_interval([[1.0], [1.0, 2.0]], grouped=True, shared_samples=True)
    with pytest.raises(ValueError, match="same samples"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(5, 4)
    with pytest.raises(ValueError, match="same samples"):
        mcnemar([True], [True, False])
    with pytest.raises(ValueError, match="bools"):
        mcnemar([0.5], [True])


def test_ranks_are_scipys():
    values = np.random.default_rng(0).integers(0, 6, (5, 40))
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values, axis=1))


def test_partial_correlation_is_that_of_the_residuals():
    rng = np.random.default_rng(2)
    given = rng.normal(size=(300, 3))
    first, second = given @ [1, 2, 3] + rng.normal(size=300), given @ [-1, 0, 1] + rng.normal(size=300)

    def left(values):
        design = np.column_stack([np.ones(300), given])
        return values - design @ np.linalg.lstsq(design, values)[0]

    result = partial_correlation(first, second, given, rank=False, resamples=500)
    assert result.estimate == pytest.approx(np.corrcoef(left(first), left(second))[0, 1], abs=1e-12)
    assert result.low < 0 < result.high
    plain = partial_correlation(first, second, rank=True, resamples=10)
    assert plain.estimate == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    # One given variable: the textbook formula.
    a, b, c = np.corrcoef(first, second)[0, 1], *(np.corrcoef(x, given[:, 0])[0, 1] for x in (first, second))
    single = partial_correlation(first, second, given[:, 0], rank=False, resamples=10)
    assert single.estimate == pytest.approx((a - b * c) / np.sqrt((1 - b**2) * (1 - c**2)))


def test_partial_correlation_of_what_is_fixed_is_nan():
    values = np.random.default_rng(0).normal(size=50)
    assert np.isnan(partial_correlation(values, np.ones(50), resamples=10).estimate)
    assert np.isnan(partial_correlation(values, values**2, 3 * values, rank=False, resamples=10).estimate)
    with pytest.raises(ValueError, match="finite"):
        partial_correlation(values, np.full(50, np.nan))
    with pytest.raises(ValueError, match="too few"):
        partial_correlation(values[:3], values[:3])
    with pytest.raises(ValueError, match="must be"):
        partial_correlation(values, values[:3])
