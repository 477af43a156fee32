from __future__ import annotations

import math

import pytest
import torch

from regfast.ops import philox
from regfast.ops.reference.philox import words
from tests.ops import oracle
from tests.ops.backends import on_cpu

uniforms = on_cpu("philox", "uniform")
normals = on_cpu("philox", "normal")

# Random123's kat_vectors: philox4x32, 10 rounds.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    as_tensors = tuple(torch.tensor([word]) for word in counter), tuple(torch.tensor([word]) for word in key)
    assert tuple(int(word) for word in words(*as_tensors)) == answer
    assert tuple(oracle.philox(counter, key)) == answer


def expected(seed: int, sample: int, stage: int, restart: int, step: int, block: int) -> list[int]:
    key = (seed & 0xFFFFFFFF, (seed >> 32) ^ (sample >> 32))
    return oracle.philox((block, sample & 0xFFFFFFFF, stage << 24 | restart, step), key)


SEEDS = [0, 1, 2**32 + 5, 2**64 - 1]


@uniforms
@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_bits(backend, seed):
    sample = torch.tensor([0, 3, 2**32 - 1, 2**40 + 17])
    restart, step = torch.tensor([0, 2, 2**24 - 1, 1]), torch.tensor([0, 2**31, 2**32 - 1, 7])
    got = philox.uniform(seed, sample, 127, restart, step, 11)
    assert got.shape == (4, 11) and got.dtype == torch.float32
    for row in range(4):
        at = (seed, int(sample[row]), 127, int(restart[row]), int(step[row]))
        exact = [(word >> 8) / 2**24 for block in range(3) for word in expected(*at, block)][:11]
        assert got[row].tolist() == exact


@normals
@pytest.mark.parametrize("seed", SEEDS)
def test_normal_bits(backend, seed):
    sample = torch.tensor([0, 2**40 + 17])
    got = philox.normal(seed, sample, 5, 3, 9, 6)
    scale = torch.tensor((2**20 - 1) ** -0.5, dtype=torch.float32)
    for row in range(2):
        for element in range(6):
            at = expected(seed, int(sample[row]), 5 | 0x80, 3, 9, element)
            total = sum(word >> shift & 1023 for word in at for shift in (0, 10, 20))
            assert got[row, element] == torch.tensor(float(total - 6138)) * scale


@uniforms
def test_uniform_statistics(backend):
    draws = philox.uniform(11, torch.arange(64), 0, 0, 0, 4096).double()
    assert draws.min() >= 0 and draws.max() < 1
    count = draws.numel()
    assert abs(draws.mean() - 0.5) < 5 * (1 / 12 / count) ** 0.5
    assert abs((draws[:, 1:] - 0.5).mul(draws[:, :-1] - 0.5).mean()) < 5 / 12 / count**0.5


@normals
def test_normal_statistics(backend):
    draws = philox.normal(11, torch.arange(64), 0, 0, 0, 4096).double()
    count = draws.numel()
    assert abs(draws.mean()) < 5 / count**0.5 and abs(draws.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((draws < -1.0).double().mean() - 0.5 * math.erfc(1 / 2**0.5)) < 0.005  # twelve terms: not quite normal


@uniforms
def test_streams_differ(backend):
    sample = torch.arange(3)
    base = philox.uniform(1, sample, 0, 0, 0, 8)
    others = [
        philox.uniform(2, sample, 0, 0, 0, 8),
        philox.uniform(1, sample + 3, 0, 0, 0, 8),
        philox.uniform(1, sample, 1, 0, 0, 8),
        philox.uniform(1, sample, 0, 1, 0, 8),
        philox.uniform(1, sample, 0, 0, 1, 8),
        philox.uniform(1 + 2**32, sample, 0, 0, 0, 8),
        philox.uniform(1, sample + 2**32, 0, 0, 0, 8),
    ]
    assert all((base != other).any(1).all() for other in others)


@uniforms
def test_bad_arguments(backend):
    sample = torch.arange(3)
    for arguments in ((-1, sample, 0, 0, 0, 4), (2**64, sample, 0, 0, 0, 4), (0, sample, 128, 0, 0, 4),
                      (0, sample, 0, 0, 0, -1), (0, sample, 0, torch.arange(2), 0, 4)):  # fmt: skip
        with pytest.raises(ValueError):
            philox.uniform(*arguments)
    with pytest.raises(TypeError, match="sample"):
        philox.uniform(0, sample.float(), 0, 0, 0, 4)
    assert philox.uniform(0, sample[:0], 0, 0, 0, 4).shape == (0, 4)
    assert philox.uniform(0, sample, 0, 0, 0, 0).shape == (3, 0)
