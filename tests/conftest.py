"""Fixtures that every folder of tests may use, and the seed of their random input."""

from __future__ import annotations

import os
import random
from pathlib import Path
from zlib import crc32

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton: its kernels run under its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes: each keeps to one core
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what they start too

SEED = os.environ.setdefault("REGFAST_TEST_SEED", str(random.SystemRandom().randrange(2**32)))  # workers inherit it


def pytest_configure(config: pytest.Config) -> None:
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = SEED


def pytest_terminal_summary(terminalreporter) -> None:
    """At the end, where the failures are read: `REGFAST_TEST_SEED=… pytest …` draws the same input again."""
    terminalreporter.write_line(f"random input: REGFAST_TEST_SEED={SEED}")


@pytest.fixture(autouse=True)
def _fresh_input(request: pytest.FixtureRequest) -> None:
    """Input that is new in every run, and in a test the same whichever tests ran before it.

    Helpers that seed a generator of their own add `torch.initial_seed()`.
    """
    torch.manual_seed(crc32(f"{SEED} {request.node.nodeid}".encode()))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> None:
    """The same for what tests share: a fixture of a module draws the same whichever tests ran before it."""
    if fixturedef.scope != "function":
        torch.manual_seed(crc32(f"{SEED} {request.node.nodeid} {fixturedef.argname}".encode()))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and ResNet-20 checkpoints beside the repository; tests that need it skip without it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder
