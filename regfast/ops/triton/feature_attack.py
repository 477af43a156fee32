"""Projected gradient descent on features through a linear head, on a GPU: a sample's whole loop in one program.

Every step reads the head from the cache, tile by tile (for l2 twice, as the step's length has to be known first).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regfast.ops.triton.launch import launch

__all__ = ["feature_attack"]

_TILE = 2048  # entries of the head at a time
_TINY = tl.constexpr(torch.finfo(torch.float64).tiny)


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
    """See `regfast.ops.feature_attack.feature_attack`. A label out of range makes a row of NaN."""
    for name, tensor in (("logits", logits), ("rows", rows), ("eps", eps), ("step_size", step_size)):
        if tensor.dtype != torch.float64:
            raise TypeError(f"{name} must be float64 for the triton backend, got {tensor.dtype}")
    tensors = [t.detach().contiguous() for t in (logits, rows, labels, eps, step_size)]
    run = _op if torch.compiler.is_compiling() else _eager
    return run(*tensors, steps, linf, margin)


def _eager(
    logits: Tensor, rows: Tensor, labels: Tensor, eps: Tensor, step_size: Tensor, steps: int, linf: bool, margin: bool
) -> Tensor:
    classes, width = rows.shape
    delta = logits.new_empty((len(logits), width))
    block = max(16, triton.next_power_of_2(classes))
    launch(
        feature_attack_kernel, len(logits), logits.device,
        logits, rows, labels, eps, step_size, delta, steps,
        LINF=linf, MARGIN=margin, K=classes, D=width,
        BLOCK=block, BLOCK_D=max(16, min(triton.next_power_of_2(max(width, 1)), _TILE // block)), num_warps=4,
    )  # fmt: skip
    return delta


_op = torch.library.custom_op("regfast_triton::feature_attack", _eager, mutates_args=())


@_op.register_fake
def _(logits, rows, *rest):
    return logits.new_empty((logits.shape[0], rows.shape[1]))


@triton.jit
def _rival(z, own, inside, cols, K: tl.constexpr):
    """The largest logit of the other classes, and its lowest column."""
    others = tl.where(inside & (own == 0), z, float("-inf"))
    best = tl.max(others, 0)
    return best, tl.min(tl.where(inside & (own == 0) & (others == best), cols, K), 0)


@triton.jit
def _tile(rows, cols, start, K: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Columns `start` … of the head, (BLOCK, BLOCK_D), and which of them are there."""
    d = start + tl.arange(0, BLOCK_D)
    w = tl.load(rows + cols[:, None] * D + d[None, :], mask=(cols < K)[:, None] & (d < D)[None, :], other=0.0)
    return w, d


@triton.jit(do_not_specialize=["steps"])
def feature_attack_kernel(
    logits, rows, labels, eps, step_size, delta, steps,
    LINF: tl.constexpr, MARGIN: tl.constexpr, K: tl.constexpr, D: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One sample a program. `delta` holds the displacement up to `scale`, which brings it back into the l2 ball."""
    sample = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < K
    clean = tl.load(logits + sample * K + cols, mask=inside, other=float("-inf"))
    label = tl.load(labels + sample)
    own = cols == label
    radius = tl.load(eps + sample)
    size = tl.load(step_size + sample)
    nothing = tl.zeros([BLOCK_D], tl.float64)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        tl.store(delta + sample * D + d, nothing, mask=d < D)
    tl.debug_barrier()

    z = clean
    scale = tl.full([], 1.0, tl.float64)
    best, best_at = _rival(z, own, inside, cols, K)
    step = tl.full([], 0, tl.int32)
    # A sample that is lost stays where it was lost; what is NaN is not right either.
    going = (tl.sum(tl.where(own, z, 0.0), 0) > best) & (tl.max(tl.where(z != z, 1, 0), 0) == 0)
    while (step < steps) & going:
        if MARGIN:
            share = tl.where(cols == best_at, 1.0, 0.0).to(tl.float64)
        else:
            share = tl.where(inside & (own == 0), tl.exp(tl.where(inside & (own == 0), z - best, 0.0)), 0.0)
            share = share / tl.sum(share, 0)
        share = tl.where(own, -1.0, share)
        pace = size
        if not LINF:
            squares = nothing
            for start in range(0, D, BLOCK_D):
                w, _d = _tile(rows, cols, start, K, D, BLOCK_D)
                slope = tl.sum(share[:, None] * w, 0)
                squares += slope * slope
            length = tl.sqrt(tl.sum(squares, 0))
            pace = size / tl.where(length < _TINY, _TINY, length)
        along = tl.zeros([BLOCK], tl.float64)
        squares = nothing
        for start in range(0, D, BLOCK_D):
            w, d = _tile(rows, cols, start, K, D, BLOCK_D)
            slope = tl.sum(share[:, None] * w, 0)
            moved = tl.load(delta + sample * D + d, mask=d < D, other=0.0) * scale
            if LINF:
                moved += size * tl.where(slope > 0.0, 1.0, tl.where(slope < 0.0, -1.0, 0.0))
                moved = tl.where(moved > radius, radius, tl.where(moved < -radius, -radius, moved))
            else:
                moved += pace * slope
                squares += moved * moved
            tl.store(delta + sample * D + d, moved, mask=d < D)
            along += tl.sum(w * moved[None, :], 1)
        if not LINF:
            norm = tl.sqrt(tl.sum(squares, 0))
            scale = tl.where(norm > radius, radius / norm, 1.0)
        tl.debug_barrier()  # another thread may read the displacement than wrote it
        z = clean + scale * along
        best, best_at = _rival(z, own, inside, cols, K)
        going = (tl.sum(tl.where(own, z, 0.0), 0) > best) & (tl.max(tl.where(z != z, 1, 0), 0) == 0)
        step += 1

    known = (label >= 0) & (label < K)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        moved = tl.load(delta + sample * D + d, mask=d < D, other=0.0) * scale
        tl.store(delta + sample * D + d, tl.where(known, moved, float("nan")), mask=d < D)
