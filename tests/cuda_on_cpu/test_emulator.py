"""The emulator finds what is wrong with wrong kernels, says where, and goes on."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch

from tests.cuda_on_cpu import build

pytestmark = pytest.mark.skipif(build.COMPILER is None, reason="no g++ 12 here")

COUNT = 96
FAULTS = {
    "no barrier": (1, None),
    "barrier that half the block meets": (
        2,
        "wait for one another for ever.*thread \\(0,0,0\\) for a block at faults.cpp",
    ),
    "barriers on two lines": (3, "different lines"),
    "lane that does not come": (4, "thread \\(5,0,0\\) for a block"),
    "lane without a part": (5, "reads lane 9, which takes no part"),
    "read behind the end": (6, "thread \\(95,0,0\\).*0 bytes past the end of 'in'"),
    "misaligned": (7, "misaligned"),
    "write beyond shared memory": (8, "0 bytes past the end of dynamic shared memory"),
    "copy not waited for": (9, None),
    "copy never waited for": (10, "ends before its asynchronous copies"),
    "block that may not have begun": (11, "may not have begun"),
    "block that has left": (12, "has ended|for ever"),
}


def run(fault: int, count: int = COUNT) -> int:
    library = build.library("faults")
    with library.memory() as memory:
        values = memory.copy("in", torch.arange(abs(count), dtype=torch.int32))
        out = memory.copy("out", torch.zeros(1, dtype=torch.int32))
        library.check("run_fault", fault, *(ctypes.c_void_p(t.data_ptr()) for t in (values, out)), count)
        return int(out.item())


@pytest.mark.parametrize("order", build.ORDERS)
def test_right_kernels_pass(order):
    build.library("faults").machine(order, seed=3)
    assert run(0) == COUNT * (COUNT - 1) // 2
    assert run(0, count=-40) == 2 * (0 + 1 + 2 + 3)  # two clusters of four blocks


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_kernels_fail(fault):
    number, said = FAULTS[fault]
    results, errors = set(), []
    for order, seed in (("forward", 0), ("backward", 0), *(("random", seed) for seed in range(5))):
        build.library("faults").machine(order, seed)
        try:
            results.add(run(number))
        except build.LaunchError as error:
            errors.append(str(error))
    if said is None:  # a race: the order decides
        assert not errors and results - {COUNT * (COUNT - 1) // 2}
    else:
        assert errors and all(re.search(said, text) for text in errors), errors
    test_right_kernels_pass("random")


def test_writes_beside_an_array_are_seen():
    library = build.library("faults")
    with pytest.raises(build.LaunchError, match="beside 'in'"), library.memory() as memory:
        array = memory.empty("in", (5,), torch.float32, shift=1)
        array.as_strided((1,), (1,), 0)  # inside
        ctypes.memset(array.data_ptr() - 1, 0, 1)


def test_launches_that_the_runtime_refuses():
    with pytest.raises(build.LaunchError, match="1024 threads"):
        run(0, count=1025)
    library = build.library("faults")
    library.machine("forward", clusters=False)
    with pytest.raises(build.LaunchError, match="no clusters"):
        run(0, count=-32)
