"""Soft-label cross-entropy on a GPU: the functions of `regfast.ops.reference.soft_cross_entropy`.

One launch does forward, mean, statistics and, for a reduced loss, the gradient. Under torch.compile the same launch
hides behind the custom op `regfast_triton::rows`; eager calls go past the dispatcher, which costs more than a loss.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from regfast.ops.backward import batched, check_first, keeps_graph
from regfast.ops.soft_cross_entropy import SampleStats
from regfast.ops.target import Target
from regfast.ops.triton.feature_stats import features_backward
from regfast.ops.triton.launch import check_dtype, counter, feature_block, launch, row_shape, rows_of
from regfast.ops.triton.rows import DENSE, INDEX, STRUCTURED
from regfast.ops.triton.scaling import met_scale, rescale, share_sum
from regfast.ops.triton.soft_cross_entropy_kernels import one_shot_kernel, two_pass_kernel

__all__ = ["number", "rows_eager", "soft_cross_entropy", "soft_cross_entropy_stats"]


def soft_cross_entropy(logits: Tensor, target: Target, inplace: bool = False, backward: str = "auto") -> Tensor:
    """See `regfast.ops.soft_cross_entropy`."""
    return _run(logits, target, inplace, backward, False, None, None)[0]


def soft_cross_entropy_stats(
    logits: Tensor,
    target: Target,
    features: Tensor | None = None,
    centers: Tensor | None = None,
    backward: str = "auto",
    feature_grad: bool = True,
) -> tuple[Tensor, SampleStats]:
    """See `regfast.ops.soft_cross_entropy`."""
    if features is not None and not feature_grad:
        features = features.detach()
    loss, stats = _run(logits, target, False, backward, True, features, centers)
    row_loss = loss
    if target.reduction != "none":
        *stats, row_loss = stats  # not pop(): to the compiler of PyTorch 2.8 what a star took is no list
    classes, lse, confidence, entropy, margin, *geometry = stats
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
    store = torch.is_grad_enabled() and logits.requires_grad and reduction != "none" and backward != "recompute"
    inplace = inplace and store and not compiling and _may_be_taken(logits)
    if backward == "auto" and store:
        # A loss scale must reach the gradient before it is rounded to float16. What a scale will make anew is not made
        # here: the compiler never knows, eager calls expect what the last backward pass met. A dense target costs 5u
        # either way, 3u without a scale.
        store = logits.dtype != torch.float16 and not compiling
        inplace = inplace and store
        if store and dense is None and not inplace:
            met = met_scale(logits.device)
            store = met is None or not met.item()
    denominator = None
    weights = class_weight if target.index_target else None
    if reduction == "mean" and (sample_weight is not None or weights is not None or (store and first is not None)):
        denominator = share_sum(first, second, weights, sample_weight, target.ignore_index, *logits.shape)
    features = None if features is None else rows_of(features)
    centers = None if centers is None or features is None else rows_of(centers.detach())
    outputs = _RowLoss.apply(
        logits, dense, features, centers, denominator,
        first, second, lam, smoothing, class_weight, sample_weight,
        (lam_value, smoothing_value, target.z_loss, target.ignore_index),
        reduction, with_stats, store, inplace,
    )  # fmt: skip
    loss, *stats = outputs
    if reduction == "mean" and logits.shape[0] == 0:
        loss = loss / 0.0
    return loss, stats


def _may_be_taken(logits: Tensor) -> bool:
    """Whether the gradient may lie in the memory of `logits`: not a leaf's, nor one that two rows share.

    Nor a view's: writing there would give it another node in the graph, and `autograd.grad(loss, view)` nothing.
    """
    own = not logits.is_leaf and not logits._is_view()
    return own and logits.stride(0) >= logits.shape[1] and (logits.stride(1) == 1 or logits.shape[1] == 1)


class _RowLoss(torch.autograd.Function):
    """Loss (reduced); with statistics also classes (2, B): predicted and true, the rows of `stats`, and losses (B,), if
    they are not the loss itself."""

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
        numbers: tuple[float, float, float, int],
        reduction: str,
        with_stats: bool,
        store: bool,
        inplace: bool,
    ) -> tuple[Tensor, ...]:
        batch = logits.shape[0]
        # A mean without weights divides by the rows that count, which a launch knows only at its end: early enough for
        # a gradient made in the backward pass.
        count_rows = reduction == "mean" and denominator is None and first is not None
        scale = 1.0 / batch if reduction == "mean" and batch and denominator is None else 1.0
        compiling = torch.compiler.is_compiling()
        run = _rows_op if compiling else rows_eager
        losses, total, count, grad, stats, classes = run(
            logits, first, second, lam, dense, smoothing, class_weight, sample_weight,
            *numbers, None, denominator, features, centers, None, scale,
            reduction, count_rows, store, with_stats, logits if inplace else None, None, compiling,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.numbers, ctx.scale, ctx.reduced = numbers, scale, reduction != "none"
        # A stored gradient that has to be scaled is made anew: rounded once, as one that was not stored is.
        # What would read more than a rescaling does, or has no logits left, is rescaled.
        ctx.rescaled = store and (inplace or dense is not None or compiling)
        ctx.save_for_backward(
            # Statistics that are penalized need the logits, whatever is stored.
            None if ctx.rescaled and not with_stats else logits, dense, features, centers, denominator,
            first, second, lam, smoothing, class_weight, sample_weight,
            count if count_rows else None, grad if store else None, classes if features is not None else None,
        )  # fmt: skip
        if not with_stats:
            return (losses if reduction == "none" else total,)
        rows = stats.unbind()
        of_logits = (losses, *rows[:4]) if reduction == "none" else (total, losses, *rows[:4])
        geometry = rows[4:]
        constants = (*(() if ctx.needs_input_grad[0] else of_logits), *(() if ctx.needs_input_grad[2] else geometry))
        ctx.mark_non_differentiable(classes, *constants)
        return (losses, classes, *rows) if reduction == "none" else (total, classes, *rows, losses)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (
            logits, dense, features, centers, denominator,
            first, second, lam, smoothing, class_weight, sample_weight, count, stored, classes,
        ) = ctx.saved_tensors  # fmt: skip
        compiling = torch.compiler.is_compiling()
        if not compiling:
            check_first()
        rows = ctx.reduced and len(grads) > 0
        of_stats = (grads[-1] if rows else None, *grads[1:5])
        penalized = any(g is not None for g in of_stats)
        grad = grad_features = None

        def made(grad_output: Tensor | None, stat_grads: Tensor | None, into: Tensor | None = None) -> Tensor:
            run = _rows_op if compiling else rows_eager
            plain = ctx.reduced and stat_grads is None and grad_output is not None and not compiling
            gradient: Tensor = run(
                logits, first, second, lam, dense, smoothing, class_weight, sample_weight, *ctx.numbers,
                grad_output, denominator if count is None else count, None, None, stat_grads,
                ctx.scale if count is None else 1.0, "", False, True, False,
                into, met_scale(logits.device) if plain else None, compiling,
            )[3]  # fmt: skip
            return gradient

        if ctx.needs_input_grad[0] and (grad_output is not None or penalized):
            if not compiling and batched(grad_output, *of_stats):  # the gradient of each output, times what came in
                terms = []
                if grad_output is not None:
                    own = made(None, None) if stored is None else stored
                    terms.append(own * (grad_output.unsqueeze(1) if grad_output.dim() else grad_output))
                for i, g in enumerate(of_stats):
                    if g is not None:
                        unit = logits.new_zeros(5, logits.shape[0], dtype=torch.float32)
                        unit[i] = 1.0
                        terms.append(made(unit.new_zeros(()), unit) * g.unsqueeze(1))
                grad = sum(terms[1:], terms[0])
            elif penalized:
                zero = logits.new_zeros((), dtype=torch.float32)
                stat_grads = torch.stack([zero.expand(logits.shape[:1]) if g is None else g for g in of_stats])
                grad = made(zero if grad_output is None else grad_output, stat_grads)
            elif ctx.rescaled:
                grad = rescale(stored, grad_output, first, second, ctx.numbers[3])
            else:
                grad = made(grad_output, None, None if stored is None or keeps_graph() else stored)
        if features is not None and ctx.needs_input_grad[2]:
            of_features = grads[5:-1] if rows else grads[5:]
            grad_features = features_backward(
                features, centers, classes[1], classes[0], *of_features, *(None,) * (3 - len(of_features))
            )
        return grad, None, grad_features, *(None,) * 13


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
    z_loss: float,
    ignore_index: int,
    grad_output: Tensor | None,
    denominator: Tensor | None,
    features: Tensor | None,
    centers: Tensor | None,
    stat_grads: Tensor | None,
    scale: float,
    reduction: str,
    count_rows: bool,
    want_grad: bool,
    want_stats: bool,
    into: Tensor | None,
    scaled: Tensor | None,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One launch. Returns losses (B,), total (), count (), grad (B, K), stats (n, B) and classes (2, B).

    Those not asked for are empty. With `grad_output`, scalar or (B,), only the gradient is made and `reduction` is "";
    `stat_grads` (5, B) are the incoming gradients of loss, log_partition, confidence, entropy and margin. The gradient
    goes `into` memory that is there: the logits' own, or, with `scaled` (see `met_scale`), that of the gradient for a
    `grad_output` of 1, which is then left alone if it is right. `traced`: inside a compiled graph, whose memory may be
    a CUDA graph's own.
    """
    batch, columns = logits.shape
    device = logits.device
    outputs = _outputs(logits, features, centers, reduction, count_rows, want_grad and into is None, want_stats, traced)
    losses, total, count, grad, stats, classes = outputs
    if into is not None:
        torch.autograd.graph.increment_version(into)
        grad = into
    want_total = reduction in ("mean", "sum")
    if batch == 0:
        if want_total:  # a sum of nothing; a mean of nothing is NaN, see _run
            total.zero_()
        return losses, total, count, grad, stats, classes
    smooth = smoothing is not None or smoothing_value != 0.0
    heavy = int(want_stats or dense is not None or (smooth and class_weight is not None))
    shape = row_shape(columns, logits.element_size(), 2 if stat_grads is not None else heavy)
    programs = -(-batch // shape["ROWS"])
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
        features, centers, stat_grads,
        losses if want_stats or reduction == "none" else None,
        grad if want_grad else None,
        total if want_total else None,
        count if want_total and count_rows else None,
        torch.empty(2 * programs, dtype=torch.float32, device=device) if want_total else None,
        counter(device, traced) if want_total else None,
        stats if want_stats else None,
        classes if want_stats else None,
        scaled,
        batch, ignore_index, lam_value, smoothing_value, z_loss, scale,
        TARGET=kind.value,
        SMOOTH=smooth,
        Z_LOSS=z_loss != 0.0,
        STATS=want_stats or stat_grads is not None,
        LAM_STRIDE=1 if lam is not None and lam.dim() else 0,
        GRAD_OUTPUT_STRIDE=grad_stride,
        K=columns, D=width,
        LOGITS_STRIDE=logits.stride(0),
        DENSE_STRIDE=0 if dense is None else dense.stride(0),
        GRAD_STRIDE=grad.stride(0) if want_grad else 0,
        FEATURES_STRIDE=0 if features is None else features.stride(0),
        CENTERS_STRIDE=0 if centers is None else centers.stride(0),
        STORED=scaled is not None and into is not None,
        BLOCK_D=feature_block(width, shape["ROWS"]),
        **shape,
    )  # fmt: skip
    return losses, total, count, grad, stats, classes


def _outputs(
    logits: Tensor,
    features: Tensor | None,
    centers: Tensor | None,
    reduction: str,
    count_rows: bool,
    want_grad: bool,
    want_stats: bool,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `rows_eager`. What is not asked for is one and the same tensor, unless an op returns it: each takes 1 µs."""
    batch, kind, make = logits.shape[0], torch.float32, logits.new_empty
    nothing = None if traced else _nothing(logits.device)

    def empty() -> Tensor:
        return make(0, dtype=kind) if nothing is None else nothing

    reduced = reduction in ("mean", "sum")
    numbers = 4 if features is None else 5 if centers is None else 7
    return (
        make(batch, dtype=kind) if reduction == "none" or want_stats else empty(),
        make((), dtype=kind) if reduced else empty(),
        make((), dtype=kind) if reduced and count_rows else empty(),
        make(logits.shape) if want_grad else empty(),
        make((numbers, batch), dtype=kind) if want_stats else empty(),
        make((2, batch), dtype=torch.int64) if want_stats else empty(),
    )


@functools.cache
def _nothing(device: torch.device) -> Tensor:
    return torch.empty(0, device=device)


_rows_op = torch.library.custom_op("regfast_triton::rows", rows_eager, mutates_args=())


@_rows_op.register_fake
def _(logits, *rest):
    features, centers, _, _, reduction, count_rows, want_grad, want_stats, _, _, traced = rest[-11:]
    return _outputs(logits, features, centers, reduction, count_rows, want_grad, want_stats, traced)


def number(value: Tensor | float, device: torch.device) -> tuple[Tensor | None, float]:
    """A run-time number as the kernel takes it: a tensor on its device, or a Python number."""
    if not isinstance(value, Tensor):
        return None, float(value)
    if value.dim() == 0 and value.device != device:
        if value.is_cpu and not torch.compiler.is_compiling():
            return None, float(value)  # it is at hand: nobody waits
        return value.to(device), 0.0
    return value.contiguous(), 0.0
