"""How many lanes fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from regfast.attacks.classifier import Model

T = TypeVar("T")

CPU_LANES = 64  # enough to fill a few cores, small enough that activations stay near the caches
GPU_LANES = 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or in the CPU allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def in_parts(work: Callable[[Tensor], T], rows: Tensor, width: int) -> list[T]:
    """`work` on `rows`, `width` at a time; fewer where memory runs out."""
    done: list[T] = []
    start = 0
    while start < len(rows):
        try:
            done.append(work(rows[start : start + width]))
            start += width
        except Exception as error:
            if not is_out_of_memory(error) or width == 1:
                raise
            width = max(width // 2, 1)
    return done


def automatic_lanes(model: Model, example: Tensor) -> int:
    """Lanes that fit into what is free: a power of two.

    Args:
        model: differentiable.
        example: (n, C, H, W) images on the model's device; on a GPU one input gradient of them is measured.
    """
    if example.device.type != "cuda" or len(example) == 0:
        return CPU_LANES
    torch.cuda.synchronize(example.device)
    torch.cuda.reset_peak_memory_stats(example.device)
    before = torch.cuda.memory_allocated(example.device)
    point = example.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(point)
    if logits.requires_grad:
        torch.autograd.grad(logits.sum(), point)
    per_lane = (torch.cuda.max_memory_allocated(example.device) - before) / len(example)
    free = torch.cuda.mem_get_info(example.device)[0] + torch.cuda.memory_reserved(example.device) - before
    fit = int(0.7 * free / max(per_lane + 12 * example[0].nbytes, 1))
    return max(min(1 << max(fit.bit_length() - 1, 0), GPU_LANES), 1)
