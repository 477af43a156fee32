"""Soft-label cross-entropy on a GPU: the functions of `regfast.ops.reference.soft_cross_entropy`.

One launch does forward, mean, statistics and, for a reduced loss, the gradient. Under torch.compile the same launch
hides behind the custom op `regfast_triton::rows`; eager calls go past the dispatcher, which costs more than a loss.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from regfast.ops.soft_cross_entropy import SampleStats
from regfast.ops.target import Target
from regfast.ops.triton.feature_stats import features_backward
from regfast.ops.triton.launch import check_dtype, counter, feature_block, launch, row_shape, rows_of
from regfast.ops.triton.rows import DENSE, INDEX, STRUCTURED
from regfast.ops.triton.soft_cross_entropy_kernels import (
    denominator_kernel,
    one_shot_kernel,
    rescale_kernel,
    two_pass_kernel,
)

__all__ = ["number", "rescale", "rows_eager", "share_sum", "soft_cross_entropy", "soft_cross_entropy_stats"]


def soft_cross_entropy(logits: Tensor, target: Target, inplace: bool = False, backward: str = "auto") -> Tensor:
    """See `regfast.ops.soft_cross_entropy`."""
    return _run(logits, target, inplace, backward, False, None, None)[0]


def soft_cross_entropy_stats(
    logits: Tensor,
    target: Target,
    features: Tensor | None = None,
    centers: Tensor | None = None,
    backward: str = "auto",
    feature_grad: bool = False,
) -> tuple[Tensor, SampleStats]:
    """See `regfast.ops.soft_cross_entropy`."""
    if features is not None and not feature_grad:
        features = features.detach()
    loss, stats = _run(logits, target, False, backward, True, features, centers)
    row_loss, classes, lse, confidence, entropy, margin, *geometry = stats
    return loss, SampleStats(
        row_loss, lse, confidence, classes[0], entropy, margin, *geometry, *[None] * (3 - len(geometry))
    )


def _run(
    logits: Tensor,
    target: Target,
    inplace: bool,
    backward: str,
    with_stats: bool,
    features: Tensor | None,
    centers: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    check_dtype("logits", logits)
    if logits.shape[1] == 0:
        raise ValueError("logits must have at least one class, got shape " + str(tuple(logits.shape)))
    compiling = torch.compiler.is_compiling()
    logits, reduction = rows_of(logits), target.reduction
    dense = None if target.dense is None else rows_of(target.dense)
    lam, lam_value = number(target.lam, logits.device)
    smoothing, smoothing_value = number(target.smoothing, logits.device)
    first, second, class_weight, sample_weight = (
        None if t is None else t.contiguous()
        for t in (target.first, target.second, target.class_weight, target.sample_weight)
    )
    denominator = None
    if reduction == "mean" and (sample_weight is not None or (target.index_target and class_weight is not None)):
        weights = class_weight if target.index_target else None
        denominator = share_sum(first, weights, sample_weight, target.ignore_index, *logits.shape)
    needs_grad = torch.is_grad_enabled() and logits.requires_grad
    store = needs_grad and reduction != "none" and (backward == "store" or (backward == "auto" and not compiling))
    features = None if features is None else rows_of(features)
    centers = None if centers is None or features is None else rows_of(centers.detach())
    outputs = _RowLoss.apply(
        logits, dense, features, centers, denominator,
        first, second, lam, smoothing, class_weight, sample_weight, lam_value, smoothing_value, target.ignore_index,
        reduction, with_stats, store, inplace and store and not compiling,
    )  # fmt: skip
    loss, *stats = outputs
    if reduction == "mean" and logits.shape[0] == 0:
        loss = loss / 0.0
    return loss, stats


class _RowLoss(torch.autograd.Function):
    """Loss (reduced); with statistics also losses (B,), classes (2, B): predicted and true, and the rows of `stats`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        dense: Tensor | None,
        features: Tensor | None,
        centers: Tensor | None,
        denominator: Tensor | None,
        first: Tensor | None,
        second: Tensor | None,
        lam: Tensor | None,
        smoothing: Tensor | None,
        class_weight: Tensor | None,
        sample_weight: Tensor | None,
        lam_value: float,
        smoothing_value: float,
        ignore_index: int,
        reduction: str,
        with_stats: bool,
        store: bool,
        inplace: bool,
    ) -> tuple[Tensor, ...]:
        batch = logits.shape[0]
        # A mean without weights divides by the rows that count. Their number is known only at the end of the launch:
        # the gradient is divided by all rows, and put right in the backward pass should some have been ignored.
        count_rows = reduction == "mean" and denominator is None and first is not None
        scale = 1.0 / batch if reduction == "mean" and batch and denominator is None else 1.0
        run = _rows_op if torch.compiler.is_compiling() else rows_eager
        losses, total, count, grad, stats, classes = run(
            logits, first, second, lam, dense, smoothing, class_weight, sample_weight,
            lam_value, smoothing_value, ignore_index, None, denominator, features, centers, scale,
            reduction, count_rows, store, with_stats, inplace,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.numbers = (lam_value, smoothing_value, ignore_index)
        ctx.scale, ctx.store, ctx.spent = scale, store, False
        ctx.save_for_backward(
            None if store else logits, dense, features, centers, denominator,
            first, second, lam, smoothing, class_weight, sample_weight,
            count if count_rows else None, grad if store else None, classes if features is not None else None,
        )  # fmt: skip
        if not with_stats:
            return (losses if reduction == "none" else total,)
        rows = stats.unbind()
        # For reduction="none" the loss and the loss among the statistics are the same numbers, but one is a constant.
        constant = losses.clone() if reduction == "none" else losses
        ctx.mark_non_differentiable(constant, classes, *rows[:4])
        return (losses if reduction == "none" else total, constant, classes, *rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (
            logits, dense, features, centers, denominator,
            first, second, lam, smoothing, class_weight, sample_weight, count, stored, classes,
        ) = ctx.saved_tensors  # fmt: skip
        grad = grad_features = None
        if grad_output is not None and ctx.needs_input_grad[0]:
            if ctx.store:
                if ctx.spent:
                    raise RuntimeError('the first backward used up the stored gradient; ask for backward="recompute"')
                ctx.spent = True
                grad = rescale(stored, grad_output, count)
            else:
                run = _rows_op if torch.compiler.is_compiling() else rows_eager
                grad = run(
                    logits, first, second, lam, dense, smoothing, class_weight, sample_weight, *ctx.numbers,
                    grad_output, denominator if count is None else count, None, None,
                    ctx.scale if count is None else 1.0, "", False, True, False, False,
                )[3]  # fmt: skip
        if features is not None and ctx.needs_input_grad[2]:
            grad_features = features_backward(features, centers, classes[1], classes[0], *grads[6:])
        return grad, None, grad_features, *(None,) * 15


def rescale(grad: Tensor, grad_output: Tensor, count: Tensor | None) -> Tensor:
    """The gradient that the forward pass left, times what only the backward pass knows."""
    if torch.compiler.is_compiling():
        scale = grad_output if count is None else grad_output * (grad.shape[0] / count)
        return torch.where(grad == 0, 0.0, grad * scale).to(grad.dtype)
    launch(
        rescale_kernel, min(triton.cdiv(grad.numel(), 4096), 1024), grad.device,
        grad, grad_output, count, grad.numel(), grad.shape[0], BLOCK=4096, num_warps=8,
    )  # fmt: skip
    return grad


def rows_eager(
    logits: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    lam: Tensor | None,
    dense: Tensor | None,
    smoothing: Tensor | None,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    lam_value: float,
    smoothing_value: float,
    ignore_index: int,
    grad_output: Tensor | None,
    denominator: Tensor | None,
    features: Tensor | None,
    centers: Tensor | None,
    scale: float,
    reduction: str,
    count_rows: bool,
    want_grad: bool,
    want_stats: bool,
    inplace: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One launch. Returns losses (B,), total (), count (), grad (B, K), stats (n, B) and classes (2, B).

    Those not asked for are empty. With `grad_output`, scalar or (B,), only the gradient is made and `reduction` is "".
    """
    batch, columns = logits.shape
    device = logits.device
    outputs = _outputs(logits, features, centers, reduction, want_grad, want_stats)
    losses, total, count, grad, stats, classes = outputs
    if inplace:
        torch.autograd.graph.increment_version(logits)
        grad = logits
    want_total = reduction in ("mean", "sum")
    if batch == 0:
        if want_total:  # a sum of nothing; a mean of nothing is NaN, see _run
            total.zero_()
        return losses, total, count, grad, stats, classes
    shape = row_shape(columns)
    programs = triton.cdiv(batch, shape["ROWS"])
    kind = DENSE if dense is not None else INDEX if second is None else STRUCTURED
    grad_stride = 0
    if grad_output is not None and grad_output.dim() == 1:
        grad_stride = grad_output.stride(0)
        if grad_stride not in (0, 1):
            grad_output, grad_stride = grad_output.contiguous(), 1
    width = 1 if features is None else features.shape[1]
    launch(
        one_shot_kernel if shape["BLOCK"] >= columns else two_pass_kernel, programs, device,
        logits, first, second, dense, lam, smoothing, class_weight, sample_weight, grad_output, denominator,
        features, centers,
        losses if len(losses) else None,
        grad if want_grad else None,
        total if want_total else None,
        count if want_total and count_rows else None,
        torch.empty(2 * programs, dtype=torch.float32, device=device) if want_total else None,
        counter(device) if want_total else None,
        stats if want_stats else None,
        classes if want_stats else None,
        batch, ignore_index, lam_value, smoothing_value, scale,
        TARGET=kind.value,
        SMOOTH=smoothing is not None or smoothing_value != 0.0,
        LAM_STRIDE=1 if lam is not None and lam.dim() else 0,
        GRAD_OUTPUT_STRIDE=grad_stride,
        K=columns, D=width,
        LOGITS_STRIDE=logits.stride(0),
        DENSE_STRIDE=0 if dense is None else dense.stride(0),
        GRAD_STRIDE=grad.stride(0) if want_grad else 0,
        FEATURES_STRIDE=0 if features is None else features.stride(0),
        CENTERS_STRIDE=0 if centers is None else centers.stride(0),
        BLOCK_D=feature_block(width, shape["ROWS"]),
        **shape,
    )  # fmt: skip
    return losses, total, count, grad, stats, classes


def _outputs(
    logits: Tensor, features: Tensor | None, centers: Tensor | None, reduction: str, want_grad: bool, want_stats: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch = logits.shape[0]
    losses = logits.new_empty(batch if reduction == "none" or want_stats else 0, dtype=torch.float32)
    total = logits.new_empty((), dtype=torch.float32)
    count = logits.new_empty((), dtype=torch.float32)
    grad = logits.new_empty(logits.shape if want_grad else (0, 0))
    numbers = 0 if not want_stats else 4 if features is None else 5 if centers is None else 7
    stats = logits.new_empty((numbers, batch), dtype=torch.float32)
    classes = logits.new_empty((2, batch if want_stats else 0), dtype=torch.int64)
    return losses, total, count, grad, stats, classes


_rows_op = torch.library.custom_op("regfast_triton::rows", rows_eager, mutates_args=())


@_rows_op.register_fake
def _(logits, *rest):
    features, centers, _, reduction, _, want_grad, want_stats, _ = rest[-8:]
    return _outputs(logits, features, centers, reduction, want_grad, want_stats)


def share_sum(
    first: Tensor | None,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    batch: int,
    columns: int,
) -> Tensor:
    """Σ sample_weight · class_weight[first] over the rows that count; a launch of its own, before the loss's."""
    tensor = first if first is not None else sample_weight
    assert tensor is not None
    if torch.compiler.is_compiling():  # the compiler fuses it
        share = torch.ones(batch, device=tensor.device) if sample_weight is None else sample_weight.float()
        if first is not None:
            if class_weight is not None:
                inside = (first >= 0) & (first < columns)
                share = share * torch.where(inside, class_weight.float()[torch.where(inside, first, 0)], 0.0)
            share = torch.where(first == ignore_index, 0.0, share)
        return share.sum()
    denominator = torch.empty((), dtype=torch.float32, device=tensor.device)
    launch(
        denominator_kernel, 1, tensor.device,
        first, class_weight, sample_weight, denominator, batch, ignore_index, K=columns, num_warps=8,
    )  # fmt: skip
    return denominator


def number(value: Tensor | float, device: torch.device) -> tuple[Tensor | None, float]:
    """A run-time number as the kernel takes it: a tensor on its device, or a Python number."""
    if not isinstance(value, Tensor):
        return None, float(value)
    if value.dim() == 0 and value.device != device:
        return value.to(device), 0.0
    return value.contiguous(), 0.0
