"""Two thousand calls take no more memory, and leave no more files open, than two hundred."""

import gc
import os
from pathlib import Path

import pytest
import torch

from regfast.attacks import PGD
from regfast.functional import soft_cross_entropy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc"),
]


def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def loss():
    logits = torch.randn(64, 1000, requires_grad=True)
    soft_cross_entropy(logits, torch.randint(1000, (64,)), label_smoothing=0.1).backward()


def attack():
    PGD("linf", 0.1, steps=1).run(MODEL, IMAGES, LABELS, lanes=1)


MODEL = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12 * 12, 10)).eval()
IMAGES, LABELS = torch.rand(1, 1, 12, 12), torch.randint(10, (1,))


@pytest.mark.parametrize("call", [loss, attack])
def test_memory_is_flat(call):
    for _ in range(200):
        call()
    before, files = resident(), len(os.listdir("/proc/self/fd"))
    for _ in range(2000):
        call()
    # A leak of one gradient a loss call would be 512 MB, of the weights' copy an attack 12 MB.
    assert resident() - before < (20 if call is loss else 4) * 2**20
    assert len(os.listdir("/proc/self/fd")) <= files
