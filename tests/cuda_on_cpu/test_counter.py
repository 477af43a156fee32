"""The counter that CUDA launches leave at zero never lies in memory that a graph's pool may hand out again."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from tests.cuda_on_cpu import build


@pytest.mark.slow
@pytest.mark.skipif(build.COMPILER is None, reason="no g++ 12 here")
def test_kept_counters_lie_outside_torchs_allocator(tmp_path):
    library = tmp_path / "counter.so"
    includes = [build.HERE / "torch_include", build.HERE / "include", *cpp_extension.include_paths()]
    torch_library = Path(torch.__file__).parent / "lib"
    command = [str(build.COMPILER), "-std=c++20", "-O0", "-fPIC", "-shared", str(build.HERE / "counter.cpp")]
    command += [*(f"-I{path}" for path in includes), f"-L{torch_library}", "-ltorch_cpu", "-lc10", "-o", str(library)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    c = ctypes.CDLL(str(library))
    c.take.restype = ctypes.c_void_p
    value = ctypes.c_int(-1)

    def take(place: int, stream: int, capturing: bool = False) -> int:
        address = c.take(place, stream, capturing, ctypes.byref(value))
        assert value.value == 0
        return int(address)

    first, again, other = take(0, stream=1), take(1, stream=1), take(2, stream=2)
    assert first == again != other
    assert c.allocations() == 2  # one a stream, from the driver, while others may capture
    # Captured: the graph's own memory, a counter a launch.
    graph = {take(3, stream=1, capturing=True), take(4, stream=1, capturing=True)}
    assert len(graph) == 2 and not graph & {first, other} and c.allocations() == 2
    assert take(5, stream=1) == first
