"""Philox4x32-10 in plain torch integers (temporary: gives way to regfast.ops.philox)."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _words(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, blocks: int) -> list[Tensor]:
    block = torch.arange(blocks, device=sample.device)
    shape = (len(sample), blocks)
    c0 = block.expand(shape)
    c1 = (sample & _MASK).unsqueeze(1).expand(shape)
    c2 = ((stage << 24) | restart).unsqueeze(1).expand(shape) & _MASK
    c3 = (step & _MASK).unsqueeze(1).expand(shape)
    k0 = torch.full(shape, seed & _MASK, device=sample.device)
    k1 = ((((seed >> 32) & _MASK) ^ ((sample >> 32) & _MASK)).unsqueeze(1)).expand(shape)
    for _ in range(10):
        h0, l0 = _mul(0xD2511F53, c0)
        h1, l1 = _mul(0xCD9E8D57, c2)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return [c0, c1, c2, c3]


def _mul(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    low = a * (b & 0xFFFF)
    high = a * (b >> 16)
    total = ((high & 0xFFFF) << 16) + low
    return ((high >> 16) + (total >> 32)) & _MASK, total & _MASK


def uniform(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    words = torch.stack(_words(seed, sample, stage, restart, step, (count + 3) // 4), 2).flatten(1)[:, :count]
    return (words >> 8).float() * 2.0**-24


def normal(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    words = _words(seed, sample, stage | 0x80, restart, step, count)
    total = sum(((w >> shift) & 1023) for w in words for shift in (0, 10, 20))
    return (total - 6138).float() * (1 / (2**20 - 1) ** 0.5)
