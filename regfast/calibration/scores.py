"""Proper scores of probabilistic predictions: Brier and negative log-likelihood, per sample and as means."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from regfast.calibration._arrays import logits_and_labels, probabilities_and_labels
from regfast.checks import array, checked, whole

Array = NDArray[Any]


@checked(probabilities=array("n", "K"), labels=array("n"), ignore_index=whole(-(2**63)))
def brier_scores(probabilities: Tensor | Array, labels: Tensor | Array, *, ignore_index: int = -100) -> Array:
    """Multiclass Brier score (Brier 1950) per sample, (n,) float64: Σ_k (p_k - [k = label])², in [0, 2].

    Args:
        probabilities: (n, K), each row sums to 1.
        labels: (n,) int, in 0 … K-1.
        ignore_index: samples with this label are left out: fewer scores than samples.

    Raises:
        ValueError: shapes that differ, no samples, one class, rows that are no probabilities.
        IndexError: a label outside 0 … K-1.
    """
    table, classes = probabilities_and_labels(probabilities, labels, ignore_index)
    table = table.copy()
    table[np.arange(len(classes)), classes] -= 1
    return (table * table).sum(axis=1)


@checked(probabilities=array("n", "K"), labels=array("n"), ignore_index=whole(-(2**63)))
def brier_score(probabilities: Tensor | Array, labels: Tensor | Array, *, ignore_index: int = -100) -> float:
    """Mean of `brier_scores`."""
    return float(brier_scores(probabilities, labels, ignore_index=ignore_index).mean())


@checked(logits=array("n", "K"), labels=array("n"), ignore_index=whole(-(2**63)))
def negative_log_likelihoods(logits: Tensor | Array, labels: Tensor | Array, *, ignore_index: int = -100) -> Array:
    """Negative log-likelihood per sample, (n,) float64, in nats, of the labels under softmax(logits).

    Takes logits (n, K), not probabilities: one that rounds to 0 would make it infinite. The rest as `brier_scores`, and
    ValueError for logits of NaN or +infinity, and for rows that all are probabilities.
    """
    table, classes = logits_and_labels(logits, labels, ignore_index)
    if bool(np.isnan(table).any() or (table == np.inf).any()):
        raise ValueError("logits must not be NaN or +infinity: such a row has no likelihood")
    shifted = table - table.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(classes)), classes]


@checked(logits=array("n", "K"), labels=array("n"), ignore_index=whole(-(2**63)))
def negative_log_likelihood(logits: Tensor | Array, labels: Tensor | Array, *, ignore_index: int = -100) -> float:
    """Mean of `negative_log_likelihoods`."""
    return float(negative_log_likelihoods(logits, labels, ignore_index=ignore_index).mean())
