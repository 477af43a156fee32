"""A target as every backend takes it, with what weighs, ignores and reduces its rows' losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

__all__ = ["Reduction", "Target"]

Reduction: TypeAlias = Literal["none", "mean", "sum"]


@dataclass(slots=True)
class Target:
    """`q = w · ((1 - s)(λ e_first + (1 - λ) e_second) + s/K)`, w the class weights; or `dense` for the mixture.

    Either `first` or `dense` is given, not both.
    """

    first: Tensor | None = None
    """(B,) int64."""
    second: Tensor | None = None
    """(B,) int64, or None: `e_first` alone (λ = 1)."""
    lam: float | Tensor = 1.0
    """λ in [0, 1]: a number, a 0-d tensor, or (B,) floating."""
    dense: Tensor | None = None
    """(B, K) floating, any dtype and strides. Differentiable if it requires grad (reference serves that)."""
    smoothing: float | Tensor = 0.0
    """s in [0, 1]: a number or a 0-d tensor; a run-time value (no recompilation when it changes)."""
    class_weight: Tensor | None = None
    """(K,) floating. Differentiable as `dense` is."""
    sample_weight: Tensor | None = None
    """(B,) floating, multiplies the row's loss. Differentiable as `dense` is."""
    ignore_index: int = -100
    """Rows whose `first` or `second` equals it have loss and gradient exactly 0 (whatever their logits), and do not
    count in the mean. No effect on dense targets."""
    reduction: Reduction = "mean"
    index_target: bool = False
    """How the mean divides: by `Σ sample_weight · class_weight[first]` (True: index targets), by `Σ sample_weight`
    (False: probability targets), over rows not ignored. 0/0 is NaN."""
    z_loss: float = 0.0
    """c ≥ 0: the row's loss gains `c · lse(z)²`, times its sample weight. Class weights do not enter."""

    @property
    def constants(self) -> tuple[object, ...]:
        """What the fast backends do not differentiate, should it require grad; reference serves that."""
        return self.dense, self.lam, self.smoothing, self.class_weight, self.sample_weight
