"""Linear layer and soft cross-entropy on a GPU, over chunks of rows.

A chunk's logits come from one matrix product, the row kernel puts the gradient in their place, and two more products
bring it to features and weight: as many products as without chunks. A sum over chunks needs the weight's gradient in
float32; where all logits take no more memory than that, there is one chunk and no such sum.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from regfast.ops.backward import batched, check_first
from regfast.ops.target import Target
from regfast.ops.triton.launch import check_dtype
from regfast.ops.triton.scaling import rescale, share_sum
from regfast.ops.triton.soft_cross_entropy import number, rows_eager

__all__ = ["linear_soft_cross_entropy"]

_BYTES = 1 << 29  # of a chunk's logits, or those of the weight's gradient in float32, where they are more
_LEAST_ROWS = 128  # a chunk, so that the products stay efficient


def linear_soft_cross_entropy(
    features: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, target: Target
) -> Tensor:
    """See `regfast.ops.linear_soft_cross_entropy`."""
    check_dtype("features", features)
    first, second, class_weight, sample_weight = (
        None if t is None else t.contiguous()
        for t in (target.first, target.second, target.class_weight, target.sample_weight)
    )
    lam, lam_value = number(target.lam, features.device)
    smoothing, smoothing_value = number(target.smoothing, features.device)
    batch, reduction = len(features), target.reduction
    denominator = None
    if reduction == "mean" and (first is not None or sample_weight is not None):
        weights = class_weight if target.index_target else None
        denominator = share_sum(first, second, weights, sample_weight, target.ignore_index, batch, len(linear_weight))
    scale = 1.0 / batch if reduction == "mean" and denominator is None and batch else 1.0
    loss = _LinearLoss.apply(
        features, linear_weight, linear_bias, first, second, lam, target.dense, smoothing, class_weight, sample_weight,
        denominator, (lam_value, smoothing_value, target.z_loss, target.ignore_index, scale), reduction,
        torch.is_grad_enabled(),
    )  # fmt: skip
    return loss / 0.0 if reduction == "mean" and batch == 0 else loss


class _LinearLoss(torch.autograd.Function):
    """Loss (reduced), whose gradients are made on the way, but where a loss scale must reach them first (float16)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, numbers, reduction, grad_enabled = arguments
        ctx.stored = reduction != "none" and tensors[0].dtype != torch.float16
        store = [grad_enabled and ctx.stored and t is not None and t.requires_grad for t in tensors[:3]]
        compiling = torch.compiler.is_compiling()
        run = _chunks_op if compiling else _chunks
        loss, *grads = run(*tensors, *numbers, None, reduction, *store, compiling)
        ctx.numbers = numbers
        ctx.save_for_backward(*(grads if ctx.stored else tensors))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        compiling = torch.compiler.is_compiling()
        if not compiling:
            check_first()
        wanted = ctx.needs_input_grad[:3]
        many = not compiling and batched(grad_output)
        if ctx.stored:
            scaled = [
                None if not want else g * grad_output if many else rescale(g, grad_output)
                for g, want in zip(ctx.saved_tensors, wanted, strict=True)
            ]
            return *scaled, *(None,) * 11
        if many:
            raise RuntimeError(
                'batched gradients need regfast.use_backend("reference") for reduction="none" and for float16'
            )
        run = _chunks_op if compiling else _chunks
        found = run(*ctx.saved_tensors, *ctx.numbers, grad_output.contiguous(), "", *wanted, compiling)[1:]
        return *(g if want else None for g, want in zip(found, wanted, strict=True)), *(None,) * 11


def _chunks(
    features: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    lam: Tensor | None,
    dense: Tensor | None,
    smoothing: Tensor | None,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    denominator: Tensor | None,
    lam_value: float,
    smoothing_value: float,
    z_loss: float,
    ignore_index: int,
    scale: float,
    grad_output: Tensor | None,
    reduction: str,
    want_features: bool,
    want_weight: bool,
    want_bias: bool,
    traced: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss (reduced) and the gradients that are wanted, empty otherwise; no loss with a `grad_output` (0-d or (B,))."""
    batch, classes = len(features), len(linear_weight)
    want_grad = want_features or want_weight or want_bias
    loss = (
        features.new_empty(batch, dtype=torch.float32)
        if reduction == "none"
        else features.new_zeros((), dtype=torch.float32)
    )
    # Contiguous whatever the features are: the row kernels and the traced shapes count on it.
    grad_features = features.new_empty(features.shape if want_features else 0)
    stride = triton.cdiv(classes, 8) * 8  # rows begin at 16-byte boundaries for products and row kernel
    limit = max(_BYTES, 4 * linear_weight.numel() if want_weight else 0)
    most = max(_LEAST_ROWS, limit // (stride * features.element_size()))
    step = triton.cdiv(batch, triton.cdiv(batch, most)) if batch else 1
    # Summed over chunks in float32, whatever the dtype of the weight.
    kind = linear_weight.dtype if step == batch else torch.float32
    make = torch.empty if batch else torch.zeros
    grad_weight = make(linear_weight.shape if want_weight else 0, dtype=kind, device=features.device)
    grad_bias = torch.zeros(classes if want_bias else 0, dtype=torch.float32, device=features.device)
    held = features.new_empty(step, stride)
    for begin in range(0, batch, step):
        part = slice(begin, begin + step)
        x = features[part]
        logits = held[: len(x), :classes]
        if linear_bias is None:
            torch.mm(x, linear_weight.t(), out=logits)
        else:
            torch.addmm(linear_bias, x, linear_weight.t(), out=logits)
        mix = lam[part] if lam is not None and lam.dim() else lam
        y1, y2, q, sample = (None if t is None else t[part] for t in (first, second, dense, sample_weight))
        rows = grad_output[part] if grad_output is not None and grad_output.dim() else grad_output
        losses, total, _, grad, _, _ = rows_eager(
            logits, y1, y2, mix, q, smoothing, class_weight, sample, lam_value, smoothing_value, z_loss, ignore_index,
            rows, denominator, None, None, None, scale,
            "sum" if reduction == "mean" else reduction, False, want_grad, False,
            logits if want_grad else None, None, traced,
        )  # fmt: skip
        if reduction == "none":
            loss[part] = losses
        elif reduction:
            loss += total
        if want_features:
            torch.mm(grad, linear_weight, out=grad_features[part])
        if want_weight:
            _add_product(grad_weight, grad.t(), x, 1 if begin else 0)
        if want_bias:
            grad_bias += grad.sum(0, dtype=torch.float32)
    return loss, grad_features, grad_weight.to(linear_weight.dtype), grad_bias.to(linear_weight.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor, beta: int) -> None:
    """total = beta · total + a @ b, rounded to its dtype alone; the sum is the product's own, where torch can."""
    if a.dtype != total.dtype and _adds_inside(a.dtype, a.device):
        torch.addmm(total, a, b, out_dtype=total.dtype, beta=beta, out=total)
    else:
        total.addmm_(a.to(total.dtype), b.to(total.dtype), beta=beta)


@functools.cache
def _adds_inside(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a product of matrices of this dtype is added to a float32 sum as it is: recent versions, on a GPU."""
    square = torch.zeros(16, 16, dtype=dtype, device=device)
    total = torch.zeros(16, 16, device=device)
    try:
        torch.addmm(total, square, square, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return True


_chunks_op = torch.library.custom_op("regfast_triton::linear", _chunks, mutates_args=())


@_chunks_op.register_fake
def _(features, linear_weight, linear_bias, *rest):
    reduction, want_features, want_weight, want_bias, _ = rest[-5:]
    return (
        features.new_empty(features.shape[0] if reduction == "none" else (), dtype=torch.float32),
        features.new_empty(features.shape if want_features else 0),
        linear_weight.new_empty(linear_weight.shape if want_weight else 0),
        linear_weight.new_empty(linear_weight.shape[0] if want_bias else 0),
    )
