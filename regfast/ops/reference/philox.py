"""Philox4x32-10 in torch's 64-bit integers."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUNDS = 10
NORMAL_SCALE = (2.0**20 - 1) ** -0.5  # twelve uniform integers of 10 bits have variance 2^20 - 1 and mean 6138


def words(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The four output words, int64 in [0, 2^32), for four counter words and two key words of one shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    """See `regfast.ops.philox.uniform`."""
    drawn = torch.stack(_draw(seed, sample, stage, restart, step, (count + 3) // 4), 2)
    return (drawn.flatten(1)[:, :count] >> 8).float() * 2.0**-24


def normal(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    """See `regfast.ops.philox.normal`: element e uses block e of the counter with stage + 128."""
    total = torch.zeros(len(sample), count, dtype=torch.int64, device=sample.device)
    for word in _draw(seed, sample, stage | 0x80, restart, step, count):
        total += (word & 1023) + ((word >> 10) & 1023) + ((word >> 20) & 1023)
    return (total - 6138).float() * torch.tensor(NORMAL_SCALE, dtype=torch.float32)


def _draw(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, blocks: int) -> tuple[Tensor, ...]:
    block = torch.arange(blocks, device=sample.device).expand(len(sample), blocks)

    def column(values: Tensor) -> Tensor:
        return (values & _MASK).unsqueeze(1).expand_as(block)

    counter = (block, column(sample), column((stage << 24) | restart), column(step))
    low = torch.full_like(block, seed & _MASK)
    high = column((sample >> 32) ^ (seed >> 32))
    return words(counter, (low, high))


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the 64-bit product, without overflowing int64."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16)
    middle = low + ((high & 0xFFFF) << 16)
    return ((high >> 16) + (middle >> 32)) & _MASK, middle & _MASK
