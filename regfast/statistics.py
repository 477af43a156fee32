"""Small-sample statistics: bootstrap, Wilson and McNemar, in NumPy. Every random draw comes from an explicit seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, ndtri

Array = NDArray[Any]
Statistic = Callable[[Array], Array]
Method = Literal["percentile", "basic"]

# Elements gathered at once: they stay in the cache, which makes a bootstrap three times faster than one large gather.
_CHUNK = 1 << 16


class Interval(NamedTuple):
    """An estimate and its confidence interval: floats, or arrays where the statistic gives several figures at once."""

    estimate: Any
    low: Any
    high: Any


class McNemar(NamedTuple):
    """Exact McNemar test: discordant counts, and the two-sided p-value of their being a fair coin's."""

    only_first: int
    only_second: int
    p_value: float


def mean(resampled: Array) -> Array:
    """Mean over the samples: (R, n, …) → (R, …). The default statistic of the bootstraps."""
    return resampled.mean(axis=1)


def bootstrap_interval(
    values: ArrayLike | Sequence[ArrayLike],
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    grouped: bool = False,
    shared_samples: bool = False,
    method: Method = "percentile",
) -> Interval:
    """Bootstrap interval of a statistic (Efron 1979), hierarchical over groups where there are groups.

    Args:
        values: (n, …) one row a sample. With ``grouped``: a sequence of such arrays, one a group (a training seed).
        statistic: takes resampled rows (R, n, …) and returns (R,) or (R, …), all resamples in a call; default the mean.
        confidence: in (0, 1).
        resamples: bootstrap resamples, at least 1; those whose statistic is NaN are left out.
        seed: of ``numpy.random.default_rng``; the same seed gives the same interval.
        grouped: the estimate is the mean over groups of each group's statistic; every resample draws groups with
            replacement, then samples within each drawn group.
        shared_samples: the groups hold the same samples in the same order (one test split, several seeds), so that a
            resample takes the same rows in every group (Owen 2007, the pigeonhole bootstrap). Needs equal sizes.
        method: "percentile": the quantiles of the resamples. "basic": those mirrored at the estimate (Davison & Hinkley
            1997, eq. 5.6), for a statistic that rises under noise (ECE, any absolute value or maximum): it is larger
            on resamples than on the sample, and the percentile interval can lie above its own estimate. Where even
            the mirrored interval misses the estimate it is widened to hold it.

    Raises:
        ValueError: no samples, no groups, unequal groups with ``shared_samples``, or an argument out of its range.
    """
    groups = _groups(values, grouped, "values")

    def evaluate(group: int, rows: Array | None) -> Array:
        array = groups[group]
        return np.asarray(statistic(array[None] if rows is None else array.take(rows, axis=0)))

    sizes = [len(group) for group in groups]
    return _bootstrap(evaluate, sizes, confidence, resamples, seed, shared_samples, groups[0][0].size, method)


def paired_difference(
    first: ArrayLike | Sequence[ArrayLike],
    second: ArrayLike | Sequence[ArrayLike],
    statistic: Statistic = mean,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    grouped: bool = False,
    shared_samples: bool = False,
    method: Method = "percentile",
) -> Interval:
    """Bootstrap interval of ``statistic(first) - statistic(second)`` where row i of both is the same sample.

    Both are resampled together, so that what is common to a sample cancels. Groups pair up in order (same seed, two
    regularizers). Arguments, method and errors as in `bootstrap_interval`; unequal shapes are a ValueError.
    """
    firsts, seconds = _groups(first, grouped, "first"), _groups(second, grouped, "second")
    if [len(group) for group in firsts] != [len(group) for group in seconds]:
        raise ValueError(
            "first and second must hold the same samples: got "
            f"{[len(group) for group in firsts]} and {[len(group) for group in seconds]} of them"
        )

    def evaluate(group: int, rows: Array | None) -> Array:
        one, other = firsts[group], seconds[group]
        if rows is None:
            return np.asarray(statistic(one[None])) - np.asarray(statistic(other[None]))
        return np.asarray(statistic(one.take(rows, axis=0))) - np.asarray(statistic(other.take(rows, axis=0)))

    sizes = [len(group) for group in firsts]
    return _bootstrap(evaluate, sizes, confidence, resamples, seed, shared_samples, firsts[0][0].size, method)


def counted_interval(
    statistic: Callable[[int, Array], Array],
    groups: int,
    samples: int,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Method = "percentile",
) -> Interval:
    """`bootstrap_interval` of groups that share their samples, for a statistic that takes weights in place of rows.

    Args:
        statistic: takes a group's number and (R, samples) whole weights, how often each sample was drawn; returns (R,).
        groups, samples: how many, at least 1 each.
        confidence, resamples, seed, method: as in `bootstrap_interval`, with the same draws.
    """
    _check_confidence(confidence)
    rng = np.random.default_rng(seed)
    picks = rng.integers(groups, size=(resamples, groups))
    weights = np.ones((resamples + 1, samples), dtype=np.uint16)
    for row in weights[1:]:
        row[:] = np.bincount(rng.integers(samples, size=samples), minlength=samples)
    found = np.stack([statistic(group, weights) for group in range(groups)])
    draws = found[picks, 1 + np.arange(resamples)[:, None]].mean(axis=1)
    return _ends(draws, found[:, 0].mean(), confidence, method)


def wilson_interval(successes: ArrayLike, n: ArrayLike, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a proportion (Wilson 1927), elementwise over integer ``successes`` and ``n``.

    With n = 0 the estimate is NaN and the interval is [0, 1]: nothing is known.

    Raises:
        ValueError: successes outside 0 … n, a negative n, or a confidence outside (0, 1).
    """
    _check_confidence(confidence)
    k, total = np.broadcast_arrays(np.asarray(successes, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not bool(np.all((k >= 0) & (k <= total))):
        raise ValueError(f"successes must lie in 0 … n, got {successes!r} of {n!r}")
    z = float(ndtri(0.5 + confidence / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = k / total
        center = (share + z * z / (2 * total)) / (1 + z * z / total)
        half = z / (1 + z * z / total) * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # The ends are exactly 0 and 1 where nothing or everything succeeded; rounding would leave 1e-17 there.
    low = np.where((total == 0) | (k == 0), 0.0, center - half)
    high = np.where((total == 0) | (k == total), 1.0, center + half)
    return Interval(_plain(share), _plain(low), _plain(high))


def mcnemar(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Exact two-sided McNemar test (McNemar 1947) of two classifiers on the same samples.

    Args:
        first, second: (n,) bool, whether each sample was right (or robust) under the first and the second model.

    The p-value is the binomial one, with no normal approximation; 1 where the two never differ.

    Raises:
        ValueError: not two 1-d arrays of bools (or zeros and ones) of one length.
    """
    one, other = _bools(first, "first"), _bools(second, "second")
    if one.shape != other.shape:
        raise ValueError(f"first and second must hold the same samples, got shapes {one.shape} and {other.shape}")
    only_first, only_second = int((one & ~other).sum()), int((~one & other).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    # P(X <= fewer) of Binomial(total, 1/2) as a regularized incomplete beta function.
    p_value = 1.0 if only_first == only_second else min(1.0, 2 * float(betainc(total - fewer, fewer + 1, 0.5)))
    return McNemar(only_first, only_second, p_value)


def ranks(values: ArrayLike) -> Array:
    """Ranks along the last axis, from 1, float64; equal values share the mean of theirs."""
    array = np.asarray(values)
    order = np.argsort(array, axis=-1, kind="stable")
    ordered = np.take_along_axis(array, order, axis=-1)
    first = np.ones(array.shape, dtype=bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    last = np.ones(array.shape, dtype=bool)
    last[..., :-1] = first[..., 1:]
    place = np.broadcast_to(np.arange(array.shape[-1]), array.shape)
    start = np.maximum.accumulate(np.where(first, place, 0), axis=-1)
    stop = np.minimum.accumulate(np.where(last, place, array.shape[-1])[..., ::-1], axis=-1)[..., ::-1]
    result = np.empty(array.shape)
    np.put_along_axis(result, order, (start + stop) / 2 + 1, axis=-1)
    return result


def partial_correlation(
    first: ArrayLike,
    second: ArrayLike,
    given: ArrayLike | None = None,
    *,
    rank: bool = True,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Correlation of two variables with others held fixed, and its percentile bootstrap interval.

    Args:
        first, second: (n,) values; bools count as 0 and 1.
        given: (n,) or (n, m) variables held fixed, or None for the plain correlation.
        rank: of the ranks (Spearman's), not of the values (Pearson's). Ranks are taken once, on the whole sample.
        confidence, resamples, seed: as in `bootstrap_interval`.

    It is the correlation of what is left of both after a linear regression on ``given``, from the inverse of the
    correlation matrix. NaN where a variable is constant or fixed by the others (in a resample: that resample is left
    out).

    Raises:
        ValueError: lengths that differ, fewer samples than variables plus two, values that are not finite.
    """
    held = np.empty((np.size(first), 0)) if given is None else np.asarray(given, dtype=np.float64)
    held = held[:, None] if held.ndim == 1 else held
    columns = [np.asarray(column, dtype=np.float64) for column in (first, second)]
    if any(column.shape != (len(held),) for column in columns) or held.ndim != 2:
        raise ValueError(
            f"first and second must be (n,) and given (n, m), got {columns[0].shape}, {columns[1].shape}, {held.shape}"
        )
    rows = np.column_stack([*columns, held])
    if len(rows) < rows.shape[1] + 2:
        raise ValueError(f"{len(rows)} samples are too few for {rows.shape[1]} variables")
    if not np.isfinite(rows).all():
        raise ValueError("first, second and given must be finite: leave out the samples that are not")
    if rank:
        rows = ranks(rows.T).T
    return bootstrap_interval(rows, _partial, confidence=confidence, resamples=resamples, seed=seed)


def _partial(rows: Array) -> Array:
    centered = rows - rows.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = centered / np.sqrt((centered**2).sum(axis=1, keepdims=True))
    matrix = scaled.swapaxes(1, 2) @ scaled
    # A constant column is NaN; a determinant of 0 says that one variable is fixed by the others.
    usable = np.isfinite(matrix).all(axis=(1, 2))
    usable[usable] = np.linalg.eigvalsh(matrix[usable])[:, 0] > 1e-10
    result = np.full(len(rows), np.nan)
    inverse = np.linalg.inv(matrix[usable])
    result[usable] = -inverse[:, 0, 1] / np.sqrt(inverse[:, 0, 0] * inverse[:, 1, 1])
    return result


def _bootstrap(
    evaluate: Callable[[int, Array | None], Array],
    sizes: list[int],
    confidence: float,
    resamples: int,
    seed: int,
    shared: bool,
    width: int,
    method: Method,
) -> Interval:
    _check_confidence(confidence)
    if method not in ("percentile", "basic"):
        raise ValueError(f"method must be percentile or basic, got {method!r}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if shared and len(set(sizes)) > 1:
        raise ValueError(f"shared_samples needs the same samples in every group, got groups of {sizes}")
    rng = np.random.default_rng(seed)
    count = len(sizes)
    estimate = np.mean([evaluate(group, None)[0] for group in range(count)], axis=0)
    draws = np.zeros((resamples, *np.shape(estimate)))
    picks = rng.integers(count, size=(resamples, count))
    step = max(1, _CHUNK // max(1, max(sizes) * width))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        rows = rng.integers(sizes[0], size=(stop - start, sizes[0])) if shared else None
        for slot in range(count):
            for group in range(count):
                chosen = np.flatnonzero(picks[start:stop, slot] == group)
                if len(chosen):
                    drawn = (
                        rng.integers(sizes[group], size=(len(chosen), sizes[group])) if rows is None else rows[chosen]
                    )
                    draws[start + chosen] += evaluate(group, drawn) / count
    return _ends(draws, estimate, confidence, method)


def _ends(draws: Array, estimate: Any, confidence: float, method: Method) -> Interval:
    """The interval of an estimate () or (…) from its resamples (R, …)."""
    tail = (1 - confidence) / 2
    # A resample without what the statistic needs (no positives for an AUC) is NaN: left out, unless all are.
    whole = ~np.isnan(draws).reshape(len(draws), -1).any(axis=1)
    low, high = np.quantile(draws[whole] if whole.any() else draws, [tail, 1 - tail], axis=0)
    if method == "basic":
        low, high = np.minimum(estimate, 2 * estimate - high), np.maximum(estimate, 2 * estimate - low)
    return Interval(_plain(estimate), _plain(low), _plain(high))


def _groups(values: Any, grouped: bool, name: str) -> list[Array]:
    groups = [np.asarray(group) for group in values] if grouped else [np.asarray(values)]
    if not groups:
        raise ValueError(f"{name} must hold at least one group")
    for group in groups:
        if group.ndim == 0 or len(group) == 0:
            raise ValueError(f"{name} must hold at least one sample a group, got shape {group.shape}")
    return groups


def _bools(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values)
    if array.ndim != 1 or not bool(np.all((array == 0) | (array == 1))):
        raise ValueError(f"{name} must be a 1-d array of bools, got shape {array.shape} of {array.dtype}")
    return array.astype(bool)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence!r}")


def _plain(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array
