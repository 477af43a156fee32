"""Binned shares behind the cosine histograms and the reliability diagrams."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def shared_edges(values: list[Array], bins: int, limits: tuple[float, float] = (-1.0, 1.0)) -> Array:
    """``bins + 1`` edges that cover every finite value inside ``limits``; both ends are multiples of 0.05."""
    pooled = np.concatenate([v[np.isfinite(v)] for v in values])
    if not len(pooled):
        return np.linspace(*limits, bins + 1)
    low = max(limits[0], np.floor(pooled.min() * 20) / 20)
    high = min(limits[1], np.ceil(pooled.max() * 20) / 20)
    return np.linspace(low, max(high, low + 0.05), bins + 1)


def bin_index(values: Array, edges: Array) -> Array:
    """Which bin each value falls in, the last one closed on both sides; -1 for NaN and what lies outside."""
    index = np.searchsorted(edges, values, side="right") - 1
    index[values == edges[-1]] = len(edges) - 2
    index[~np.isfinite(values) | (values < edges[0]) | (values > edges[-1])] = -1
    return index


def rates(values: Array, hit: Array, edges: Array) -> tuple[Array, Array]:
    """Per bin of ``values``: how many there are, and the share of them where ``hit`` is true (NaN for an empty bin)."""
    index = bin_index(values, edges)
    keep = index >= 0
    count = np.bincount(index[keep], minlength=len(edges) - 1)
    hits = np.bincount(index[keep], weights=hit[keep].astype(float), minlength=len(edges) - 1)
    return count, np.divide(hits, count, out=np.full(len(count), np.nan), where=count > 0)


def joined_rates(values: Array, hit: Array, edges: Array, least: int) -> tuple[Array, Array]:
    """Mean of ``values`` and share of them where ``hit`` is true, over bins joined from the left.

    Each holds at least ``least``; what is left on the right joins the last one. Nothing where there are fewer in all.
    """
    index = bin_index(values, edges)
    keep = index >= 0
    whole, held, place = 0, 0, np.zeros(len(edges) - 1, dtype=int)
    for k, count in enumerate(np.bincount(index[keep], minlength=len(edges) - 1)):
        place[k], held = whole, held + count
        if held >= least:
            whole, held = whole + 1, 0
    if not whole:
        return np.empty(0), np.empty(0)
    group = np.minimum(place, whole - 1)[index[keep]]
    count = np.bincount(group)
    return np.bincount(group, weights=values[keep]) / count, np.bincount(group, weights=hit[keep]) / count


def thin(count: int, most: int) -> Array:
    """Indices of at most ``most`` of ``count`` points, evenly spread: the same ones every time."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
