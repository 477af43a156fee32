"""What attacks climb: per-sample value, prediction and gradient on the logits in one pass.

| kind | value (the attack raises it) | source |
|---|---|---|
| ce | `lse(z) - z_y` | |
| margin | `max_{j≠y} z_j - z_y` | Carlini and Wagner 2017 |
| dlr | `-(z_y - max_{j≠y} z_j) / (z_(1) - z_(3) + 1e-12)` | Croce and Hein 2020, eq. 7 |
| probability-margin | `max_{j≠y} p_j - p_y` | PMA, arXiv 2411.15210 |
| ce-targeted | `z_t - lse(z)` | |
| margin-targeted | `z_t - z_y` | |
| dlr-targeted | `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4))/2 + 1e-12)` | Croce and Hein 2020, eq. 9 |
| probability-margin-targeted | `p_t - p_y` | |
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["KINDS", "Objective", "objective"]

# Kind of objective → least number of classes.
KINDS = {
    "ce": 1,
    "margin": 2,
    "dlr": 3,
    "probability-margin": 2,
    "ce-targeted": 1,
    "margin-targeted": 1,
    "dlr-targeted": 4,
    "probability-margin-targeted": 1,
}


class Objective(NamedTuple):
    """Per sample: the value (B,), predicted class (B,) int64, and the value's gradient on the logits (B, K)."""

    loss: Tensor
    prediction: Tensor
    gradient: Tensor


def objective(logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None = None) -> Objective:
    """The objective `kind` of every row; not differentiable itself, the gradient is in the answer.

    Ties among the largest logits go to the lowest index, in the prediction, in `max_{j≠y}` and in the ranks of DLR.

    Args:
        logits: (B, K) floating, any strides.
        labels: (B,) int64.
        kind: one of the table above.
        targets: (B,) int64, read by targeted kinds only.

    Returns:
        `Objective`; the gradient has the dtype of `logits`, the value is float32 (float64 for float64).

    Raises:
        ValueError: unknown kind, fewer classes than it needs, a targeted kind without targets, shapes that don't fit.
        IndexError: labels or targets out of range, on CPU in eager mode; elsewhere such rows are NaN.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if logits.dim() != 2:
        raise ValueError(f"logits must be (B, K), got {tuple(logits.shape)}")
    if logits.shape[1] < KINDS[kind]:
        raise ValueError(f"{kind!r} needs at least {KINDS[kind]} classes, logits have {logits.shape[1]}; use 'margin'")
    _check_rows("labels", labels, logits)
    if kind.endswith("-targeted"):
        if targets is None:
            raise ValueError(f"{kind!r} needs targets, got None")
        _check_rows("targets", targets, logits)
    run = find("objective", "objective", logits)
    return run(logits, labels, kind, targets)


def _check_rows(name: str, classes: Tensor, logits: Tensor) -> None:
    if classes.shape != logits.shape[:1]:
        raise ValueError(f"{name} must be ({len(logits)},), one for each row, got {tuple(classes.shape)}")
