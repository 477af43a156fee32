"""What a loss's gradient is divided by and multiplied with: rows that count before, `grad_output` afterwards."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regfast.ops.backward import keeps_graph
from regfast.ops.triton.launch import counter, launch, row_shape
from regfast.ops.triton.rows import add_to_total, product, weigh

__all__ = ["met_scale", "rescale", "share_sum"]

_ROWS = 1024  # a program of the sum
_PROGRAMS = 1024  # of the rescaling, at most
_met: dict[int, Tensor] = {}


def met_scale(device: torch.device) -> Tensor | None:
    """An int32 that backward passes on `device` write: whether the last one met a `grad_output` other than 1.

    It lies in the host's memory, where a launch writes it and the next forward pass reads it: nobody waits. None inside
    a CUDA graph that is being captured before there was any.
    """
    index = device.index if device.index is not None or device.type != "cuda" else torch.cuda.current_device()
    key = -1 if index is None else index
    if key not in _met:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return None
        _met[key] = torch.zeros((), dtype=torch.int32, pin_memory=device.type == "cuda")
    return _met[key]


def share_sum(
    first: Tensor | None,
    second: Tensor | None,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
    ignore_index: int,
    batch: int,
    columns: int,
) -> Tensor:
    """Σ sample_weight · class_weight[first] over the rows that count; a launch of its own, before the loss's."""
    tensor = first if first is not None else sample_weight
    assert tensor is not None
    device = tensor.device
    if torch.compiler.is_compiling():  # the compiler fuses it
        share = torch.ones(batch, device=device) if sample_weight is None else sample_weight.float()
        if first is not None:
            if class_weight is not None:
                inside = (first >= 0) & (first < columns)
                share = share * torch.where(inside, class_weight.float()[torch.where(inside, first, 0)], 0.0)
            share = torch.where(first == ignore_index, 0.0, share)
        if second is not None:
            share = torch.where(second == ignore_index, 0.0, share)
        return share.sum()
    if batch == 0:
        return torch.zeros((), device=device)
    programs = -(-batch // _ROWS)
    share = torch.empty((), dtype=torch.float32, device=device)
    partial = torch.empty(programs, dtype=torch.float32, device=device)
    launch(
        share_kernel, programs, device,
        first, second, class_weight, sample_weight, share, partial, counter(device), batch, ignore_index,
        K=columns, ROWS=_ROWS, num_warps=4,
    )  # fmt: skip
    return share


@triton.jit(do_not_specialize=["batch", "ignore_index"])
def share_kernel(
    first, second, class_weight, sample_weight, share, partial, counter, batch, ignore_index,
    K: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Σ sample_weight · class_weight[first] over rows not ignored; either weight may be absent."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ok = rows < batch
    w = tl.where(ok, 1.0, 0.0)
    if first is not None:
        label = tl.load(first + rows, mask=ok, other=0)
        w = weigh(w, class_weight, label, ok & (label >= 0) & (label < K))
        w = tl.where(label == ignore_index, 0.0, w)
    if second is not None:
        w = tl.where(tl.load(second + rows, mask=ok, other=0) == ignore_index, 0.0, w)
    if sample_weight is not None:
        w *= tl.load(sample_weight + rows, mask=ok, other=0.0).to(tl.float32)
    add_to_total(partial, counter, share, None, None, tl.sum(w, 0), 0.0, 1.0)


def rescale(
    grad: Tensor, grad_output: Tensor, first: Tensor | None = None, second: Tensor | None = None, ignore_index: int = 0
) -> Tensor:
    """The gradient that the forward pass left, times what only the backward pass knows; ignored rows are 0 and stay so.

    In its own memory, unless another backward pass may ask for it.
    """
    if torch.compiler.is_compiling():
        return torch.where(grad == 0, 0.0, grad * grad_output).to(grad.dtype)
    rows = grad if grad.dim() == 2 else grad.view(-1, 1)
    batch, columns = rows.shape
    out = torch.empty(grad.shape, dtype=grad.dtype, device=grad.device) if keeps_graph() else None
    shape = row_shape(columns)
    launch(
        rescale_kernel, min(-(-batch // shape["ROWS"]), _PROGRAMS), grad.device,
        rows, out, grad_output, first, second, batch, ignore_index,
        K=columns, STRIDE=rows.stride(0), **shape,
    )  # fmt: skip
    return grad if out is None else out


@triton.jit(do_not_specialize=["batch", "ignore_index"])
def rescale_kernel(
    grad, out, grad_output, first, second, batch, ignore_index,
    K: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = grad · grad_output, a device scalar; without `out` in place, unless it is 1.

    Rows of `grad` lie STRIDE apart: what is between them stays as it is.
    """
    scale = tl.load(grad_output).to(tl.float32)
    if out is not None or scale != 1.0:
        for start in range(tl.program_id(0) * ROWS, batch, tl.num_programs(0) * ROWS):
            rows = start + tl.arange(0, ROWS).to(tl.int64)
            ok = rows < batch
            live = ok
            if first is not None:
                live = live & (tl.load(first + rows, mask=ok, other=0) != ignore_index)
            if second is not None:
                live = live & (tl.load(second + rows, mask=ok, other=0) != ignore_index)
            for column in range(0, K, BLOCK):
                cols = column + tl.arange(0, BLOCK)
                inside = (cols < K)[None, :]
                at = grad + rows[:, None] * STRIDE + cols[None, :]
                g = tl.load(at, mask=live[:, None] & inside, other=0.0).to(tl.float32)
                scaled = product(g, scale).to(grad.dtype.element_ty)
                if out is None:
                    tl.store(at, scaled, mask=live[:, None] & inside)
                else:
                    tl.store(out + rows[:, None] * K + cols[None, :], scaled, mask=ok[:, None] & inside)
