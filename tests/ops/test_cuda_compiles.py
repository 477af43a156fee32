"""Every .cu file compiles for every GPU we name; registers and spills are printed. Needs nvcc, but no GPU.

Three minutes a generation, so for those who changed csrc/cuda: `pytest -m exhaustive tests/ops/test_cuda_compiles.py`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
SOURCES = sorted((Path(__file__).parents[2] / "csrc" / "cuda").glob("*.cu"))


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
@pytest.mark.parametrize("arch", [90, 80, 100])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_compiles(source, arch, tmp_path):
    includes = [*cpp_extension.include_paths(), sysconfig.get_paths()["include"]]
    if torch.version.cuda is None:  # torch for CPUs leaves out one generated header
        header = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
        header.parent.mkdir(parents=True)
        header.write_text("#pragma once\n#define C10_CUDA_BUILD_SHARED_LIBS\n")
        includes.insert(0, str(tmp_path))
    command = [NVCC, "-c", str(source), "-o", str(tmp_path / "kernels.o"), "-std=c++17", "-O3", "-Xptxas", "-v"]
    command += ["--expt-relaxed-constexpr", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    command += ["-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__", "-D__CUDA_NO_BFLOAT16_CONVERSIONS__"]
    found = subprocess.run([*command, *(f"-I{path}" for path in includes)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    names = re.findall(r"Compiling entry function '(\S+)' for '(sm_\d+)a?'", found.stderr)
    registers = re.findall(r"Used (\d+) registers", found.stderr)
    spills = [
        int(a) + int(b) for a, b in re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", found.stderr)
    ]
    assert len(names) == len(registers) == len(spills) > 0
    assert {compiled for _, compiled in names} == {f"sm_{arch}"}
    for (name, _), count, spilled in zip(names, registers, spills, strict=True):
        print(f"sm_{arch} {source.stem} {name}: {count} registers, {spilled} bytes spilled")
    assert not any(spills), [name for name, spilled in zip(names, spills, strict=True) if spilled]


# Blocks of 128 threads that a processor's 65,536 registers hold are group_blocks; of 256 threads, long_blocks.
REGISTERS = {"Li16E": 72, "Li32E": 80, "Li0E": 80}
LOSS = """
#include "cuda_soft_cross_entropy.cuh"
using namespace regfast::cuda;
cudaError_t loss(const LossArguments& arguments, const Device& device, cudaStream_t stream) {
  return launch_loss<__nv_bfloat16, float, false>(arguments, device, stream);
}
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(NVCC is None, reason="no nvcc here")
def test_rows_of_losses_keep_their_registers_and_move_sixteen_bytes_at_a_time(tmp_path):
    source = tmp_path / "loss.cu"
    source.write_text(LOSS)
    command = [NVCC, "-c", str(source), "-o", str(tmp_path / "loss.o"), "-std=c++17", "-O3", "-Xptxas", "-v", "--keep"]
    command += [f"--keep-dir={tmp_path}", f"-I{SOURCES[0].parents[1] / 'include'}", "--expt-relaxed-constexpr"]
    found = subprocess.run([*command, "-gencode=arch=compute_90,code=sm_90"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-3000:]
    used = re.findall(
        r"entry function '\S*long_rows_kernel\S*(Li\d+E)\S*'.*?Used (\d+) registers", found.stderr, re.DOTALL
    )
    assert {name: int(count) <= REGISTERS[name] for name, count in used} == dict.fromkeys(REGISTERS, True)
    assert not re.search(r"[1-9]\d* bytes spill", found.stderr)
    (ptx,) = tmp_path.glob("*.ptx")
    kernels = [text for text in ptx.read_text().split(".entry") if re.match(r"\s*\S*long_rows_kernel", text)]
    assert len(kernels) == len(REGISTERS)
    for text in kernels:
        assert re.search(r"cp\.async\.\S+ \[\S+\], \[\S+\], 16", text) and re.search(r"st\.global\S*\.v4", text)
