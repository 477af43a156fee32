"""Counter-based random numbers (Philox4x32-10; Salmon et al., SC 2011): a draw is a function of what it is for.

key = (low, high 32 bits of the seed), the second xor-ed with the sample id's high 32 bits; counter = (block, low 32
bits of the sample id, stage << 24 | restart, step). One counter gives the words of elements 4·block to 4·block + 3. All
backends give the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["counters", "normal", "uniform"]


def uniform(seed: int, sample: Tensor, stage: int, restart: int | Tensor, step: int | Tensor, count: int) -> Tensor:
    """Uniform draws in [0, 1), multiples of 2^-24.

    Args:
        seed: in [0, 2^64).
        sample: (S,) int64 sample ids, at least 0.
        stage: in [0, 128).
        restart: in [0, 2^24), an int or (S,) int64.
        step: in [0, 2^32), an int or (S,) int64.
        count: draws per sample, at least 0.

    Returns:
        (S, count) float32.

    Raises:
        ValueError, TypeError: for arguments out of these ranges or types.
    """
    restart, step = counters(seed, sample, stage, restart, step)
    _check_count(count)
    return find("philox", "uniform", sample)(seed, sample, stage, restart, step, count)


def normal(seed: int, sample: Tensor, stage: int, restart: int | Tensor, step: int | Tensor, count: int) -> Tensor:
    """Normal deviates (sum of twelve 10-bit integers, scaled: mean 0, variance 1, |x| < 6); arguments as in `uniform`.

    They use a counter of their own (stage + 128), so that they are independent of the uniform draws.

    Returns:
        (S, count) float32.
    """
    restart, step = counters(seed, sample, stage, restart, step)
    _check_count(count)
    return find("philox", "normal", sample)(seed, sample, stage, restart, step, count)


def counters(seed: int, sample: Tensor, stage: int, restart: int | Tensor, step: int | Tensor) -> tuple[Tensor, Tensor]:
    """`restart` and `step` as (S,) int64; errors as in `uniform`."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed must lie in [0, 2^64), got {seed}")
    if sample.dtype != torch.int64 or sample.dim() != 1:
        raise TypeError(f"sample must be (S,) int64, got {tuple(sample.shape)} {sample.dtype}")
    if not 0 <= stage < 128:
        raise ValueError(f"stage must lie in [0, 128), got {stage}")
    return _per_sample("restart", restart, sample), _per_sample("step", step, sample)


def _check_count(count: int) -> None:
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")


def _per_sample(name: str, value: int | Tensor, sample: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.full_like(sample, value)
    if value.shape != sample.shape:
        raise ValueError(f"{name} must be an int or have one value a sample, got shape {tuple(value.shape)}")
    return value.to(torch.int64)
