"""Projected gradient descent on features through a linear head: every step of every sample in one call."""

from __future__ import annotations

from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["feature_attack"]


def feature_attack(
    logits: Tensor,
    rows: Tensor,
    labels: Tensor,
    eps: Tensor,
    step_size: Tensor,
    steps: int,
    *,
    linf: bool,
    margin: bool,
) -> Tensor:
    """Displacement δ of each feature after at most ``steps`` steps of PGD; a sample stays where it is lost.

    A step goes along the gradient g of lse_{j≠y} z_j - z_y (with ``margin``: of max_{j≠y} z_j - z_y), with z the
    logits plus ``rows`` δ: by step_size·g/‖g‖ and back into the ball ‖δ‖ <= eps; with ``linf`` by step_size·sign(g),
    clipped to [-eps, eps]. Lost means that another logit is at least as large as the label's.

    Args:
        logits: (B, K) float64 of the clean features, K > 1.
        rows: (K, n) float64 head weights.
        labels: (B,) int64 in 0 … K-1.
        eps, step_size: (B,) float64, at least 0.
        steps: at least 0.

    Returns:
        (B, n) float64. No gradient goes through it.

    Raises:
        ValueError: shapes that don't fit.
        IndexError: labels out of range, on CPU; on a GPU such rows are NaN.
    """
    if logits.dim() != 2 or rows.dim() != 2 or logits.shape[1] != len(rows) or len(rows) < 2:
        shapes = f"{tuple(logits.shape)} and {tuple(rows.shape)}"
        raise ValueError(f"logits must be (B, K) and rows (K, n) with K > 1, got {shapes}")
    for name, tensor in (("labels", labels), ("eps", eps), ("step_size", step_size)):
        if tensor.shape != logits.shape[:1]:
            raise ValueError(f"{name} must be ({len(logits)},), one for each row, got {tuple(tensor.shape)}")
    run = find("feature_attack", "feature_attack", logits)
    moved: Tensor = run(logits, rows, labels, eps, step_size, steps, linf=linf, margin=margin)
    return moved
