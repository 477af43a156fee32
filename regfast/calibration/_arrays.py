"""What calibration measures take, checked once: tensors on any device or arrays, turned into float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def as_array(values: Tensor | Array) -> Array:
    """Any tensor or array-like as a NumPy array on the CPU, floating values as float64."""
    if isinstance(values, Tensor):
        values = values.detach()
        values = (values.double() if values.is_floating_point() else values).cpu().numpy()
    array = np.asarray(values)
    return array.astype(np.float64, copy=False) if np.issubdtype(array.dtype, np.floating) else array


def confidence_and_correct(confidence: Tensor | Array, correct: Tensor | Array) -> tuple[Array, Array]:
    """Checked (n,) float64 confidences and (n,) float64 zeros and ones, of as many of each."""
    values, right = as_array(confidence).astype(np.float64, copy=False), as_array(correct)
    if not len(values):
        raise ValueError("confidence holds no samples: the calibration error of nothing is undefined")
    if not bool(np.all((values >= 0) & (values <= 1))):
        worst = values[~((values >= 0) & (values <= 1))][0]
        raise ValueError(f"confidence must lie in [0, 1], got {worst!r}")
    if not bool(np.all((right == 0) | (right == 1))):
        raise ValueError("correct must hold bools (or zeros and ones)")
    return values, right.astype(np.float64)


def matrix_and_labels(
    matrix: Tensor | Array, labels: Tensor | Array, name: str, ignore_index: int | None = None
) -> tuple[Array, Array]:
    """Checked (n, K) float64 rows and (n,) int64 labels in 0 … K-1, of as many, without those of `ignore_index`."""
    table, classes = as_array(matrix).astype(np.float64, copy=False), as_array(labels)
    if table.shape[1] < 2:
        raise ValueError(f"{name} must have K >= 2 classes, got {table.shape}; a single logit z stands for (0, z)")
    if not np.issubdtype(classes.dtype, np.integer):
        raise TypeError(f"labels must be integers, got {classes.dtype}")
    if ignore_index is not None and bool((classes == ignore_index).any()):
        known = classes != ignore_index
        table, classes = table[known], classes[known]
    if not table.size:
        raise ValueError(f"{name} holds no samples: got shape {table.shape}")
    if classes.min() < 0 or classes.max() >= table.shape[1]:
        raise IndexError(f"labels must lie in 0 … {table.shape[1] - 1}, got {classes.min()} … {classes.max()}")
    return table, classes.astype(np.int64)


def probabilities_and_labels(
    probabilities: Tensor | Array, labels: Tensor | Array, ignore_index: int | None = None
) -> tuple[Array, Array]:
    """Checked (n, K) float64 probabilities (rows sum to 1 within 1e-3, so that half precision passes) and labels."""
    table, classes = matrix_and_labels(probabilities, labels, "probabilities", ignore_index)
    total = table.sum(axis=1)
    if not (bool(np.all((table >= 0) & (table <= 1 + 1e-6))) and float(np.abs(total - 1).max()) <= 1e-3):
        raise ValueError(
            f"probabilities must lie in [0, 1] and sum to 1 a row, got {table.min()!r} … {table.max()!r}, "
            f"sums {total.min()!r} … {total.max()!r}; logits need a softmax first"
        )
    return np.minimum(table, 1.0), classes


def logits_and_labels(logits: Tensor | Array, labels: Tensor | Array, ignore_index: int) -> tuple[Array, Array]:
    """Checked (n, K) float64 logits and labels. Rows that are all probabilities are refused: a softmax ran before."""
    table, classes = matrix_and_labels(logits, labels, "logits", ignore_index)
    if bool(np.all((table >= 0) & (table <= 1))) and float(np.abs(table.sum(axis=1) - 1).max()) <= 1e-2:
        raise ValueError(
            "logits are probabilities: every row lies in [0, 1] and sums to 1; give what the softmax was taken of, "
            "or the logarithm of the probabilities"
        )
    return table, classes
