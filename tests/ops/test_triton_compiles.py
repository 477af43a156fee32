"""Every Triton kernel compiles for every GPU we name, without spilling in the configurations its launcher chooses.

By default for the H100's generation alone.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

REST = (("cuda", "80"), ("cuda", "100"), ("hip", "gfx942"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "target", [("cuda", "90"), *(pytest.param(each, marks=pytest.mark.exhaustive) for each in REST)], ids="-".join
)
def test_compiles_without_spills(target):
    found = subprocess.run(
        [sys.executable, "-m", "tests.ops.triton_compile", *target],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
    )
    print(found.stdout)
    assert found.returncode == 0, (found.stdout + found.stderr)[-3000:]
    assert "kernels, 0 spill" in found.stdout
