"""Several processes under torchrun on gloo: the same rows, and nothing lost when workers die."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regfast.evaluation.compare import read_run
from tests.evaluation import toy

ROOT = Path(__file__).parents[2]


def torchrun(out, *options, workers=2, restarts=0):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    command += ["--max-restarts", str(restarts), "-m", "tests.evaluation.toy", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return toy.run(tmp_path_factory.mktemp("runs") / "alone").rows()


def rows(out):
    return read_run(out)[1]


def test_two_workers_give_the_rows_of_one(alone, tmp_path):
    done = torchrun(tmp_path / "two", "--chunk-size", "4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("robust")  # before it Gloo may say that it is connected
    assert rows(tmp_path / "two").equals(alone)


def test_a_worker_with_nothing_to_do_waits_for_the_other(alone, tmp_path):
    done = torchrun(tmp_path / "two", "--chunk-size", "60")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "two").equals(alone)


def test_a_killed_worker_loses_its_chunk_and_the_next_run_goes_on(alone, tmp_path):
    out = tmp_path / "killed"
    done = torchrun(out, "--chunk-size", "4", "--die-after", "2", "--only-rank", "1")
    assert done.returncode != 0
    assert 0 < len(set(rows(out)["sample"].to_pylist())) < 60
    assert toy.run(out, chunk_size=9).rows().equals(alone)


def test_elastic_restarts_go_on_with_the_missing_chunks(alone, tmp_path):
    out = tmp_path / "elastic"
    done = torchrun(out, "--chunk-size", "4", "--die-after", "2", "--once", str(tmp_path / "died"), restarts=1)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists(), "the leading worker was killed once"
    assert rows(out).equals(alone)


def test_a_full_disk_on_one_worker_is_said_and_nothing_is_lost(alone, tmp_path):
    out = tmp_path / "full"
    done = torchrun(out, "--chunk-size", "4", "--full-after", "1", "--only-rank", "1")
    assert done.returncode != 0
    assert "samples are safe" in done.stderr
    assert not list(out.glob("parts/.*.tmp"))
    assert toy.run(out).rows().equals(alone)
