"""What attacks climb, on a GPU: the functions of `regfast.ops.reference.objective`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regfast.ops.objective import Objective
from regfast.ops.triton.launch import check_dtype, launch, row_shape, rows_of
from regfast.ops.triton.rows import first_at, load_label

__all__ = ["objective"]

_CE, _MARGIN, _DLR, _PROBABILITY = (tl.constexpr(kind) for kind in range(4))
_KINDS = {"ce": _CE, "margin": _MARGIN, "dlr": _DLR, "probability-margin": _PROBABILITY}


def objective(logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None = None) -> Objective:
    """See `regfast.ops.objective`."""
    check_dtype("logits", logits)
    targets = targets.contiguous() if kind.endswith("-targeted") and targets is not None else None
    run = _op if torch.compiler.is_compiling() else _eager
    return Objective(*run(rows_of(logits.detach()), labels.contiguous(), kind.removesuffix("-targeted"), targets))


def _eager(logits: Tensor, labels: Tensor, kind: str, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    loss, prediction, gradient = _outputs(logits)
    batch, columns = logits.shape
    shape = row_shape(columns, logits.element_size())
    launch(
        one_shot_objective_kernel if shape["BLOCK"] >= columns else two_pass_objective_kernel,
        triton.cdiv(batch, shape["ROWS"]), logits.device,
        logits, labels, targets, loss, prediction, gradient, batch,
        KIND=_KINDS[kind].value, K=columns, LOGITS_STRIDE=logits.stride(0), **shape,
    )  # fmt: skip
    return loss, prediction, gradient


def _outputs(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch = logits.shape[0]
    return (
        logits.new_empty(batch, dtype=torch.float32),
        logits.new_empty(batch, dtype=torch.int64),
        logits.new_empty(logits.shape),
    )


_op = torch.library.custom_op("regfast_triton::objective", _eager, mutates_args=())


@_op.register_fake
def _(logits, *rest):
    return _outputs(logits)


@triton.jit
def _behind(z, cols, value, at):
    """Entries that rank after (value, at): smaller, or as large at a higher index."""
    return (z < value[:, None]) | ((z == value[:, None]) & (cols[None, :] > at[:, None]))


@triton.jit
def _next_in_tile(z, cols, value, at, K: tl.constexpr):
    """The entry of the tile that ranks next after (value, at)."""
    after = _behind(z, cols, value, at)
    best = tl.max(tl.where(after, z, float("-inf")), 1)
    return best, first_at(after & (z == best[:, None]), cols, K)


@triton.jit
def _next_in_row(row, ok, value, at, K: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The entry of the row in memory that ranks next after (value, at)."""
    top = tl.full([ROWS, BLOCK], float("-inf"), tl.float32)
    top_at = tl.full([ROWS, BLOCK], K, tl.int32)
    for start in range(0, K, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        mask = ok[:, None] & (cols < K)[None, :]
        z = tl.load(row + cols[None, :], mask=mask, other=float("-inf"), eviction_policy="evict_last").to(tl.float32)
        take = mask & _behind(z, cols, value, at) & ((z > top) | (top_at == K))
        top = tl.where(take, z, top)
        top_at = tl.where(take, cols[None, :], top_at)
    best = tl.max(top, 1)
    return best, tl.min(tl.where(top == best[:, None], top_at, K), 1)


@triton.jit
def _climb(z1, z3, z4, z_label, z_to, log_e, total_e, TARGETED: tl.constexpr, KIND: tl.constexpr):
    """The value, and its derivative: by softmax (times p), by z_to, by z_label, by the largest, by the low logits."""
    zero = z1 * 0.0
    if KIND == _CE:
        loss = log_e - (z_to - z1)
        softmax, to, label, largest, low = zero + 1.0, zero - 1.0, zero, zero, zero
        if TARGETED:
            loss, softmax, to = -loss, -softmax, -to
    elif KIND == _MARGIN:
        loss = z_to - z_label
        softmax, to, label, largest, low = zero, zero + 1.0, zero - 1.0, zero, zero
    elif KIND == _DLR:
        # In float64: coefficients that fall to one class may cancel.
        if TARGETED:
            third = 0.5 * z3.to(tl.float64) + 0.5 * z4.to(tl.float64)
        else:
            third = z3.to(tl.float64)
        scale = 1.0 / (z1.to(tl.float64) - third + 1e-12)
        loss = (z_to.to(tl.float64) - z_label.to(tl.float64)) * scale
        slope = loss * scale
        softmax, to, label, largest, low = zero, scale, -scale, -slope, slope
    else:
        to = tl.exp(z_to - z1) / total_e
        label = -tl.exp(z_label - z1) / total_e
        loss = to + label
        softmax, largest, low = -loss, zero, zero
    return loss, softmax, to, label, largest, low


@triton.jit
def _put(g, cols, at, to, label, largest, low, y, t, at1, at3, at4):
    """`g` with all that falls to class `at` in DLR; `low` goes half to the third, half to the fourth."""
    total = tl.where(at == t, to, 0.0) + tl.where(at == y, label, 0.0) + tl.where(at == at1, largest, 0.0)
    total += tl.where(at == at3, 0.5 * low, 0.0) + tl.where(at == at4, 0.5 * low, 0.0)
    return tl.where(cols[None, :] == at[:, None], total.to(tl.float32)[:, None], g)


@triton.jit
def _gradient_tile(z, cols, z1, total_e, softmax, to, label, largest, low, y, t, at1, at3, at4, KIND: tl.constexpr):
    if KIND == _DLR:
        g = _put(tl.zeros_like(z), cols, at1, to, label, largest, low, y, t, at1, at3, at4)
        g = _put(g, cols, at3, to, label, largest, low, y, t, at1, at3, at4)
        g = _put(g, cols, at4, to, label, largest, low, y, t, at1, at3, at4)
        g = _put(g, cols, t, to, label, largest, low, y, t, at1, at3, at4)
        g = _put(g, cols, y, to, label, largest, low, y, t, at1, at3, at4)
    else:
        g = tl.where(cols[None, :] == t[:, None], to[:, None], 0.0)
        if (KIND == _CE) or (KIND == _PROBABILITY):  # noqa: SIM109 - kernels have no `in`
            g += tl.exp(z - z1[:, None]) * (softmax / total_e)[:, None]
        if KIND != _CE:
            g += tl.where(cols[None, :] == y[:, None], label[:, None], 0.0)
    return g


@triton.jit(do_not_specialize=["batch"])
def one_shot_objective_kernel(
    logits, labels, targets, losses, predictions, gradient, batch,
    KIND: tl.constexpr, K: tl.constexpr, LOGITS_STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS whole rows a program, in registers."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK)
    ok = rows < batch
    mask = ok[:, None] & (cols < K)[None, :]
    row = logits + rows[:, None] * LOGITS_STRIDE
    z = tl.load(row + cols[None, :], mask=mask, other=float("-inf")).to(tl.float32)
    y, valid = load_label(labels, rows, ok, K)

    z1 = tl.where(ok, tl.max(z, 1), 0.0)
    at1 = first_at(mask & (z == z1[:, None]), cols, K)
    z2, at2, z3, at3, z4, at4 = z1, at1, z1, at1, z1, at1
    if (targets is None and KIND != _CE) or KIND == _DLR:
        z2, at2 = _next_in_tile(z, cols, z1, at1, K)
    if KIND == _DLR:
        z3, at3 = _next_in_tile(z, cols, z2, at2, K)
        z4, at4 = z3, at3  # their mean is the third
        if targets is not None:
            z4, at4 = _next_in_tile(z, cols, z3, at3, K)
    if targets is not None:
        t, valid_target = load_label(targets, rows, ok, K)
        valid = valid & valid_target
    elif KIND == _CE:
        t = y
    else:
        t = tl.where(at1 == y, at2, at1).to(tl.int64)
    total_e = tl.where(ok, tl.sum(tl.exp(z - z1[:, None]), 1), 1.0)
    z_label = tl.load(logits + rows * LOGITS_STRIDE + y, mask=ok & valid, other=0.0).to(tl.float32)
    z_to = tl.load(logits + rows * LOGITS_STRIDE + t, mask=ok & valid & (t < K), other=0.0).to(tl.float32)
    loss, softmax, to, label, largest, low = _climb(
        z1, z3, z4, z_label, z_to, tl.log(total_e), total_e, targets is not None, KIND
    )
    tl.store(losses + rows, tl.where(valid, loss.to(tl.float32), float("nan")), mask=ok)
    tl.store(predictions + rows, tl.where(at1 < K, at1, 0).to(tl.int64), mask=ok)
    g = _gradient_tile(z, cols, z1, total_e, softmax, to, label, largest, low, y, t, at1, at3, at4, KIND)
    g = tl.where(valid[:, None], g, float("nan"))
    tl.store(gradient + rows[:, None] * K + cols[None, :], g.to(gradient.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["batch"])
def two_pass_objective_kernel(
    logits, labels, targets, losses, predictions, gradient, batch,
    KIND: tl.constexpr, K: tl.constexpr, LOGITS_STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row a program, any K: a pass over the row (after the first from the L2 cache) for every rank needed."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = rows < batch
    row = logits + rows[:, None] * LOGITS_STRIDE
    y, valid = load_label(labels, rows, ok, K)

    nothing = tl.zeros([ROWS], tl.int32) - 1
    z1, at1 = _next_in_row(row, ok, tl.full([ROWS], float("inf"), tl.float32), nothing, K, ROWS, BLOCK)
    z2, at2, z3, at3, z4, at4 = z1, at1, z1, at1, z1, at1
    if (targets is None and KIND != _CE) or KIND == _DLR:
        z2, at2 = _next_in_row(row, ok, z1, at1, K, ROWS, BLOCK)
    if KIND == _DLR:
        z3, at3 = _next_in_row(row, ok, z2, at2, K, ROWS, BLOCK)
        z4, at4 = z3, at3  # their mean is the third
        if targets is not None:
            z4, at4 = _next_in_row(row, ok, z3, at3, K, ROWS, BLOCK)
    if targets is not None:
        t, valid_target = load_label(targets, rows, ok, K)
        valid = valid & valid_target
    elif KIND == _CE:
        t = y
    else:
        t = tl.where(at1 == y, at2, at1).to(tl.int64)
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    if (KIND == _CE) or (KIND == _PROBABILITY):  # noqa: SIM109 - kernels have no `in`
        for start in range(0, K, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            mask = ok[:, None] & (cols < K)[None, :]
            z = tl.load(row + cols[None, :], mask=mask, other=float("-inf"), eviction_policy="evict_last")
            sums += tl.exp(z.to(tl.float32) - z1[:, None])
    else:
        sums += 1.0
    total_e = tl.sum(sums, 1)
    z_label = tl.load(logits + rows * LOGITS_STRIDE + y, mask=ok & valid, other=0.0).to(tl.float32)
    z_to = tl.load(logits + rows * LOGITS_STRIDE + t, mask=ok & valid & (t < K), other=0.0).to(tl.float32)
    loss, softmax, to, label, largest, low = _climb(
        z1, z3, z4, z_label, z_to, tl.log(total_e), total_e, targets is not None, KIND
    )
    tl.store(losses + rows, tl.where(valid, loss.to(tl.float32), float("nan")), mask=ok)
    tl.store(predictions + rows, tl.where(at1 < K, at1, 0).to(tl.int64), mask=ok)
    for start in range(0, K, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        mask = ok[:, None] & (cols < K)[None, :]
        z = tl.load(row + cols[None, :], mask=mask, other=0.0, eviction_policy="evict_first").to(tl.float32)
        g = _gradient_tile(z, cols, z1, total_e, softmax, to, label, largest, low, y, t, at1, at3, at4, KIND)
        g = tl.where(valid[:, None], g, float("nan"))
        tl.store(gradient + rows[:, None] * K + cols[None, :], g.to(gradient.dtype.element_ty), mask=mask)
