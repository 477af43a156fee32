"""The examples run as they stand, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_prints_figures(example, tmp_path):
    paths = os.pathsep.join(map(str, (ROOT, example.parent)))
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(character.isdigit() for character in done.stdout) and not list(tmp_path.iterdir())


def test_there_is_one_for_each_kind_of_user():
    assert {path.stem for path in EXAMPLES} >= {"train", "attack", "own_attack", "own_regularizer", "own_networks"}
