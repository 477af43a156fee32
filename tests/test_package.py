"""What is packed and installed, and what a type checker of a user's file sees."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import regfast

ROOT = Path(__file__).parents[1]


def copied(folder: Path) -> Path:
    """The tracked files and what is not ignored, elsewhere: building leaves its traces there."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in listed.split("\n"):
        if name and (ROOT / name).is_file() and not name.startswith("shared/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_a_source_distribution_holds_every_source_and_test(tmp_path):
    source = copied(tmp_path / "source")
    environment = os.environ | {"REGFAST_NATIVE": "0"}
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, env=environment, capture_output=True)
    (packed,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(packed) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        str(path.relative_to(source))
        for folder in ("csrc", "tests", "regfast", "docs", "benchmarks")
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    assert not wanted - names
    assert {"Makefile", "constraints.txt", "LICENSE", "README.md", "CHANGELOG.md"} <= names
    assert packed.name == f"regfast-{regfast.__version__}.tar.gz"


def test_without_torch_the_build_is_pure_python_and_says_so(tmp_path):
    source = copied(tmp_path / "source")
    (source / "torch.py").write_text("raise ImportError('no torch here')")
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "build")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=source, env=environment | {"PYTHONPATH": str(source)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "WITHOUT its native kernels: torch is not installed" in done.stderr
    assert list(tmp_path.rglob("build/lib*/regfast/functional.py")) and not list(tmp_path.rglob("*.so"))


# A build as on a machine with a CUDA PyTorch: nvcc fails, or does not; the rest is a module of three lines.
CUDA = """
import sys, torch
from torch.utils import cpp_extension
torch.version.cuda = "12.8"
cpp_extension.CUDA_HOME = {home!r}
cpp_extension._check_cuda_version = lambda *arguments: None
sys.argv = ["setup.py", "build_ext", "--inplace"]
exec(compile(open("setup.py").read(), "setup.py", "exec"), {{"__name__": "__main__", "__file__": "setup.py"}})
"""
MODULE = """
#include <Python.h>
static PyModuleDef module{PyModuleDef_HEAD_INIT, "_native", REGFAST_TORCH, -1, nullptr};
PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&module); }
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
def test_a_cuda_build_that_fails_leaves_the_cpu_kernels(tmp_path):
    for folder in ("csrc/cpu", "csrc/autograd", "csrc/cuda", "regfast", "cuda/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "csrc/registration.cpp").write_text(MODULE)
    (tmp_path / "csrc/cuda/kernel.cu").write_text("not CUDA")
    (tmp_path / "regfast/__init__.py").touch()
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = regfast\n[options]\npackages = regfast\n")
    nvcc = tmp_path / "cuda/bin/nvcc"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    nvcc.chmod(0o755)
    build = [sys.executable, "-c", CUDA.format(home=str(tmp_path / "cuda"))]
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_CUDA_ARCH_LIST"}
    environment["PATH"] = os.pathsep.join([str(nvcc.parent), environment["PATH"]])
    strict = environment | {"REGFAST_REQUIRE_NATIVE": "1"}
    assert subprocess.run(build, cwd=tmp_path, env=strict, capture_output=True).returncode != 0
    done = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "CUDA kernels cannot be built here" in done.stderr, done.stderr
    (made,) = tmp_path.glob("regfast/*.so")
    spec = importlib.util.spec_from_file_location("_native", made)
    assert importlib.util.module_from_spec(spec).__doc__.startswith("2.")


USER = """
import torch

import regfast

attack = regfast.attacks.PGD(norm="linf", eps=1 / 255, steps=10)
loss = regfast.soft_cross_entropy(torch.zeros(2, 3), regfast.smooth(torch.tensor([0, 1]), 3, 0.1))
transform = regfast.MixUp(num_classes=10)
reveal_type(attack)
reveal_type(loss)
reveal_type(transform)
reveal_type(regfast.evaluate)
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_public_names(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(ROOT / ".mypy_cache"), str(tmp_path / "user.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"MYPYPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout
    for kind in ("regfast.attacks.pgd.PGD", "Tensor", "MixUp", "def ("):
        assert kind in done.stdout, done.stdout
    assert '"Any"' not in done.stdout


def test_all_names_are_there():
    for name in regfast.__all__:
        assert getattr(regfast, name) is not None
    assert set(regfast._HOME) <= set(regfast.__all__)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
@pytest.mark.parametrize("header", sorted((ROOT / "csrc" / "include").glob("*.h")), ids=lambda path: path.stem)
def test_the_kernels_are_cpp_17(header):
    """PyTorch 2.6 to 2.8, which pyproject.toml admits, builds extensions as C++17; the pinned one as C++20."""
    command = ["g++", "-std=c++17", "-Werror", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=f'#include "{header}"\n', capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
