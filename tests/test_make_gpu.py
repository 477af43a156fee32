"""`make gpu DRY=1`: what a machine with a GPU will run starts on one without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("build", "config", "tests", "benchmarks", "attacks", "kernels", "sanitizer")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("make") is None or not (ROOT / "Makefile").exists(), reason="no make, or no checkout")
def test_every_stage_starts_without_a_gpu(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    found = subprocess.run(
        ["make", "gpu", "DRY=1"], cwd=ROOT, env=kept | {"OUT": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    assert [name for name in STAGES if f"--- {name}: status 0" not in found.stdout] == []
    assert "test_losses.py" in found.stdout  # collected
    assert "racecheck: --tool racecheck" in found.stdout
