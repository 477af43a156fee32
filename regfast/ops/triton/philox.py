"""Counter-based random numbers on a GPU: the functions of `regfast.ops.reference.philox`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from regfast.ops.triton.launch import launch
from regfast.ops.triton.philox_kernels import draw_kernel

__all__ = ["normal", "uniform"]


def uniform(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    """See `regfast.ops.philox.uniform`."""
    return _draw(seed, sample, stage, restart, step, count, False)


def normal(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    """See `regfast.ops.philox.normal`."""
    return _draw(seed, sample, stage, restart, step, count, True)


def halves(seed: int) -> tuple[int, int]:
    """Low and high 32 bits of the seed, each as the int32 of the same bits."""
    low, high = seed & 0xFFFFFFFF, seed >> 32
    return low - ((low >> 31) << 32), high - ((high >> 31) << 32)


def _draw(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int, is_normal: bool) -> Tensor:
    out = torch.empty(len(sample), count, dtype=torch.float32, device=sample.device)
    chunks = triton.cdiv(count, 1024)
    launch(
        draw_kernel, len(sample) * chunks, sample.device,
        out, sample.contiguous(), restart.contiguous(), step.contiguous(), *halves(seed), stage, count, chunks,
        NORMAL=is_normal, BLOCK=1024, num_warps=4,
    )  # fmt: skip
    return out
