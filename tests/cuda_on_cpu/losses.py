"""soft_cross_entropy by the CUDA kernels on the emulator, with the arguments that the .cu file would make."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.cuda_on_cpu import build

_POINTER = ctypes.c_void_p
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
COUNTED_ROWS = 1024  # as in csrc/cuda/soft_cross_entropy.cu


class Arguments(ctypes.Structure):
    """LossArguments, field by field."""

    _fields_ = (
        ("logits", _POINTER),
        ("logits_stride", ctypes.c_int64),
        ("batch", ctypes.c_int64),
        ("columns", ctypes.c_int),
        ("first", _POINTER),
        ("second", _POINTER),
        ("dense", _POINTER),
        ("dense_stride", ctypes.c_int64),
        ("lam", _POINTER),
        ("lam_stride", ctypes.c_int),
        ("lam_value", ctypes.c_float),
        ("smoothing", _POINTER),
        ("smoothing_value", ctypes.c_float),
        ("class_weight", _POINTER),
        ("sample_weight", _POINTER),
        ("z_loss", ctypes.c_float),
        ("ignore_index", ctypes.c_int64),
        ("mean", ctypes.c_bool),
        ("denominator", _POINTER),
        ("count_rows", ctypes.c_bool),
        ("grad_output", _POINTER),
        ("grad_output_stride", ctypes.c_int),
        ("scaled", _POINTER),
        ("unless_one", ctypes.c_bool),
        ("losses", _POINTER),
        ("grad", _POINTER),
        ("grad_stride", ctypes.c_int64),
        ("total_value", _POINTER),
        ("total_partial", _POINTER),
        ("total_counter", _POINTER),
    )


class Layout(NamedTuple):
    """Where rows lie: elements between them, and elements behind a page's start (None: ending with a page)."""

    gap: int = 0
    shift: int | None = None
    grad_gap: int = 0
    grad_shift: int | None = None


PLAIN = Layout()


def run(
    logits: Tensor,
    target: dict[str, Any],
    *,
    gradient: bool = True,
    grad_output: Tensor | None = None,
    inplace: bool = False,
    layout: Layout = PLAIN,
    count_rows: bool = True,
    stored: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Loss (not computed with a `grad_output`, as in backward) and gradient, by the machine that `library` has now.

    `stored`: the gradient for a grad_output of 1, to be made anew if that is not what it is. `hidden`: (B,) bool, rows
    of logits that must not be read; their pages must be their own.
    """
    library = build.library("soft_cross_entropy")
    assert library.size_of_arguments() == ctypes.sizeof(Arguments)
    reduction, mean = target.get("reduction", "mean"), target.get("reduction", "mean") == "mean"
    with library.memory() as memory:
        held: list[Tensor] = []

        def give(name: str, value: Any, dtype: torch.dtype = torch.float32) -> int | None:
            if not isinstance(value, Tensor):
                return None
            held.append(memory.copy(name, value.to(dtype).reshape(-1)))
            return held[-1].data_ptr()

        z = memory.rows("logits", logits, layout.gap, layout.shift)
        lam, smoothing, dense = target.get("lam", 1.0), target.get("smoothing", 0.0), target.get("dense")
        arguments = Arguments(
            logits=z.data_ptr(),
            logits_stride=z.stride(0),
            batch=len(z),
            columns=z.shape[1],
            first=give("first", target.get("first"), torch.int64),
            second=give("second", target.get("second"), torch.int64),
            lam=give("lam", lam),
            lam_stride=int(isinstance(lam, Tensor) and lam.dim() == 1),
            lam_value=0.0 if isinstance(lam, Tensor) else lam,
            smoothing=give("smoothing", smoothing),
            smoothing_value=0.0 if isinstance(smoothing, Tensor) else smoothing,
            class_weight=give("class_weight", target.get("class_weight")),
            sample_weight=give("sample_weight", target.get("sample_weight")),
            z_loss=target.get("z_loss", 0.0),
            ignore_index=target.get("ignore_index", -100),
            mean=mean,
            grad_output=give("grad_output", grad_output),
            grad_output_stride=int(grad_output is not None and grad_output.dim() == 1),
            unless_one=stored is not None,
        )
        if dense is not None:
            q = memory.rows("dense", dense, layout.gap, layout.shift)
            arguments.dense, arguments.dense_stride = q.data_ptr(), q.stride(0)
        grad = z
        if not inplace and gradient:
            filled = torch.full_like(logits, torch.nan) if stored is None else stored
            grad = memory.rows("grad", filled, layout.grad_gap, layout.grad_shift)
        if gradient:
            arguments.grad, arguments.grad_stride = grad.data_ptr(), grad.stride(0)

        partial = memory.empty("partial", (library.shares(ctypes.c_int64(len(z))),), torch.float32)
        counter = memory.copy("counter", torch.zeros(1, dtype=torch.int32))
        by_label = bool(target.get("index_target", False))
        weighted = "sample_weight" in target or (by_label and "class_weight" in target)
        if mean and (weighted or dense is None):
            if not weighted and count_rows:
                arguments.count_rows = True
            else:
                divisor = memory.empty("denominator", (1,), torch.float32)
                pointers = (ctypes.c_void_p(t.data_ptr()) for t in (divisor, partial, counter))
                library.check("denominator", ctypes.byref(arguments), by_label, *pointers)
                arguments.denominator = divisor.data_ptr()
        loss = memory.empty("loss", (() if reduction != "none" else (len(z),)), torch.float32)
        if grad_output is None and reduction != "none":
            arguments.total_value, arguments.total_partial = loss.data_ptr(), partial.data_ptr()
            arguments.total_counter = counter.data_ptr()
        elif grad_output is None:
            arguments.losses = loss.data_ptr()
        scaled = memory.copy("scaled", torch.tensor([7], dtype=torch.int32))
        arguments.scaled = scaled.data_ptr()
        dense_is_float = dense is None or dense.dtype == torch.float32
        with memory.hidden([] if hidden is None else [z[row] for row in hidden.nonzero()[:, 0].tolist()]):
            library.check("cross_entropy", ctypes.byref(arguments), _DTYPES.index(logits.dtype), dense_is_float)
        noted = grad_output is not None and grad_output.dim() == 0
        assert scaled.item() == (int(grad_output != 1) if noted else 7)

        assert counter.item() == 0, "the counter must be left at 0"
        if not inplace:
            assert torch.equal(z.contiguous().view(torch.uint8), logits.contiguous().view(torch.uint8)), (
                "logits changed"
            )
        for rows in (z, grad):
            gaps = rows.as_strided((len(rows) - 1, rows.stride(0) - rows.shape[1]), (rows.stride(0), 1), rows.shape[1])
            assert gaps.isnan().all(), "a write between rows"
        return loss.clone(), grad.clone(memory_format=torch.contiguous_format)


def step(logits: Tensor, target: dict[str, Any], grad_output: float, met_scale: bool) -> Tensor:
    """The gradient, by the launches of a forward and backward pass (see LossNode in csrc/autograd).

    `met_scale`: the step before met a `grad_output` other than 1.
    """
    dense, incoming = "dense" in target, torch.tensor(grad_output)
    if met_scale and not dense:
        run(logits, target, gradient=False)
        return run(logits, target, grad_output=incoming)[1]
    _, stored = run(logits, target)
    return rescale(stored, grad_output) if dense else run(logits, target, grad_output=incoming, stored=stored)[1]


def rescale(grad: Tensor, grad_output: float, shift: int | None = None) -> Tensor:
    """`grad` times `grad_output`."""
    library = build.library("soft_cross_entropy")
    with library.memory() as memory:
        held, scale = memory.copy("grad", grad, shift), memory.copy("grad_output", torch.tensor([grad_output]))
        pointers = ctypes.c_void_p(held.data_ptr()), ctypes.c_void_p(scale.data_ptr())
        library.check("rescale", pointers[0], _DTYPES.index(grad.dtype), pointers[1], ctypes.c_int64(grad.numel()))
        return held.clone()
