"""Launching kernels: device guard, shapes by the number of columns, and the counters of the one-launch mean."""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# One-shot kernels keep whole rows in registers; beyond this many columns they would spill.
ONE_SHOT_LIMIT = 8192
LANES = 64 if torch.version.hip else 32  # of a warp


def launch(kernel: Any, programs: int, device: torch.device, *args: Any, **options: Any) -> None:
    """Run `kernel` with `programs` programs on the current stream of `device`; nothing to do for 0 programs."""
    if programs == 0:
        return
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[(programs,)](*args, **options)
    else:
        kernel[(programs,)](*args, **options)


@functools.cache
def row_shape(columns: int, size: int = 4, heavy: int = 0) -> dict[str, int]:
    """ROWS, BLOCK and num_warps for rows of so many columns of `size` bytes; a BLOCK of fewer columns: two passes.

    `heavy` kernels hold more than logits and exponentials a column (2: statistics' gradients as well): fewer columns in
    one shot, and half as many a thread, keep them at 64 registers with 512 threads. Of short rows a program takes 1,024
    columns, which keeps 20 kB a multiprocessor under way, but of the shortest 256: what is kept once a row takes
    registers too. In two passes a thread loads 16 bytes, and the warps a row grow with the row: what the rows under way
    read a second time should still lie in the L2 cache (an H100's 50 MB for 132 multiprocessors).
    """
    if columns > ONE_SHOT_LIMIT >> heavy:
        warps = 8 if heavy or columns * size <= 1 << 16 else 16 if columns * size <= 3 << 16 else 32
        return {"ROWS": 1, "BLOCK": warps * 512 // size, "num_warps": max(8, warps * 32 // LANES)}
    block = triton.next_power_of_2(max(columns, 1))
    rows = max(1, (1024 if block >= 64 else 256) // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": min(16, max(4, block // (256 if heavy else 512)))}


@functools.cache
def feature_block(columns: int, rows: int) -> int:
    """Columns of a step over features, for `rows` rows at once."""
    return min(triton.next_power_of_2(max(columns, 1)), max(16, 1024 // rows))


_counters: dict[tuple[int, int], Tensor] = {}


def counter(device: torch.device, traced: bool = False) -> Tensor:
    """A zero of int32 on `device` that the kernel leaves at zero.

    One per stream, since launches on different streams may overlap; a new one inside a graph that is being captured,
    whose replays may run on any stream, and for a call that is `traced` by the compiler: with "reduce-overhead" its
    memory comes from a CUDA graph's pool, whose next run takes it back.
    """
    if traced or device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros((), dtype=torch.int32, device=device)
    key = (
        torch.cuda.current_device() if device.index is None else device.index,
        torch.cuda.current_stream(device).cuda_stream,
    )
    if key not in _counters:
        _counters[key] = torch.zeros((), dtype=torch.int32, device=device)
    return _counters[key]


def rows_of(tensor: Tensor) -> Tensor:
    """A (B, K) tensor whose rows are contiguous: itself where they are, and no lazy negation (`z.conj().imag`)."""
    if not torch.compiler.is_compiling() and tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor if tensor.shape[1] <= 1 or tensor.stride(1) == 1 else tensor.contiguous()


def check_dtype(name: str, tensor: Tensor) -> None:
    """Raises TypeError for what the kernels, which add in float32, would silently round."""
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, bfloat16 or float16 for the triton backend, got {tensor.dtype}")
