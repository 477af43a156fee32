"""The loss's row kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in a program of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc" / "include"
FLAGS = ["-std=c++20", "-O1", "-g1", "-fopenmp-simd", "-fno-trapping-math", "-fno-math-errno"]
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ISA = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}.get(torch.backends.cpu.get_cpu_capability())
NATIVE = [] if ISA is None else [f'-DREGFAST_ISA="{ISA}"', "-DREGFAST_ISA_FUSES=true"]  # as setup.py does

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here"),
]


@pytest.fixture(scope="module", params=[32, 16])
def bits(request):
    return request.param  # float32 and float64, or bfloat16 and float16


@pytest.fixture(scope="module")
def program(bits, tmp_path_factory):
    target = tmp_path_factory.mktemp("sanitized") / "rows"
    formats = ["-DSIXTEEN_BITS"] if bits == 16 else []
    command = ["g++", *FLAGS, *SANITIZED, *NATIVE, *formats, f"-I{CSRC}", str(HERE / "rows.cpp"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in done.stderr and "asan" in done.stderr:
        pytest.skip("this compiler comes without AddressSanitizer")
    assert done.returncode == 0, done.stderr[-3000:]
    return [str(target), os.environ["REGFAST_TEST_SEED"]]


def test_no_access_is_stray(program, bits):
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"{109440 if bits == 16 else 72960} calls\n"  # 16 bits: dense targets in float32 too


def test_a_stray_access_is_found(program):
    done = subprocess.run([*program, "overrun"], capture_output=True, text=True)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
