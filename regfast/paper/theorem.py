"""Theorem 1 on heads: the simplex ETF with its closed form, random heads, and trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regfast.representation import etf_minimiser_norm, theorem1

Rows = list[dict[str, Any]]


def known_heads(num_classes: int, smoothing: Sequence[float], ridge: float, dimensions: int, seed: int) -> Rows:
    """Rows of theorem1.parquet for the simplex ETF of weight norm 1, and random heads without and with bias.

    A random head has (K, `dimensions`) normal weights of variance 1/`dimensions` and biases N(0, 1), from `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    etf = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    etf = etf / etf.norm(dim=1, keepdim=True)
    weight = torch.randn(num_classes, dimensions, generator=generator, dtype=torch.float64) / dimensions**0.5
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    closed = [etf_minimiser_norm(num_classes, 1.0, level, ridge) for level in smoothing]
    return [
        *head_rows(f"etf-{num_classes}", etf, None, smoothing, ridge, closed),
        *head_rows("random, no bias", weight, None, smoothing, ridge),
        *head_rows("random", weight, bias, smoothing, ridge),
    ]


def head_rows(
    head: str,
    weight: Tensor,
    bias: Tensor | None,
    smoothing: Sequence[float],
    ridge: float,
    closed_form: Sequence[float] | None = None,
) -> Rows:
    """Rows of theorem1.parquet for one head, a class and a smoothing each."""
    found = theorem1(weight, bias, smoothing, ridge=ridge)
    closed = [np.nan] * len(smoothing) if closed_form is None else closed_form
    return [
        {
            "head": head,
            "label": label,
            "smoothing": float(level),
            "ridge": ridge,
            "norm": float(found.norm[place, label]),
            "projection": float(found.projection[place, label]),
            "closed_form": float(closed[place]),
        }
        for label in range(len(weight))
        for place, level in enumerate(smoothing)
    ]
