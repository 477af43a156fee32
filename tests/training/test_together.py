"""Two ranks train one model as one process does."""

import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regfast.models import load_model
from regfast.training import REGULARIZERS, Recipe, train
from tests.runs.kills import TORCHRUN, Job, finish
from tests.training.together import images, result

NAMES = ("loss", "learning_rate", "train_rms")  # not of held-out images, of which one may lie on a boundary


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    jobs = [Job(["tests.training.together", str(folder)], RANK=str(rank), **common) for rank in (0, 1)]
    for job in jobs:
        output = job.process.communicate(timeout=200)[0]
        assert job.process.returncode == 0, output
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "regularizer", "read"), [("mixup", "mixup", False), ("read", "hard", True)])
def test_ranks_agree_and_do_what_one_process_does(ranks, case, regularizer, read):
    expected, curves = result(False, regularizer, read)
    for weights, figures in (rank[case] for rank in ranks):
        for name, value in expected.items():
            assert torch.equal(weights[name], ranks[0][case][0][name]), name
            # Six steps at 0.1; gradients of order 1 whose sums are rounded in another order.
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5, msg=name)
        assert figures == ranks[0][case][1]
        for mine, one in zip(figures, curves, strict=True):
            assert [mine[name] for name in NAMES] == pytest.approx([one[name] for name in NAMES], rel=1e-4)


@pytest.mark.exhaustive
def test_a_restart_by_torchrun_goes_on_from_the_last_epoch(tmp_path):
    """The weights are those of a training that nobody disturbed, bit for bit."""
    options = ["regfast", "train", "--dataset", "digits", "--epochs", "6", "--device", "cpu", "--out"]
    job = Job([*TORCHRUN[:-1], "--max-restarts", "1", "-m", *options, str(tmp_path / "restarted.safetensors")])
    job.wait_for((tmp_path / "restarted.resume.pt").exists)
    (worker,) = (pid for pid in job.alive() if rank_of(pid) == "1")
    os.kill(worker, signal.SIGKILL)
    output = job.process.communicate(timeout=200)[0]
    assert job.process.returncode == 0 and "exitcode: -9" in output, output
    finish([*TORCHRUN, *options, str(tmp_path / "whole.safetensors")])
    restarted, whole = (load_file(tmp_path / f"{name}.safetensors") for name in ("restarted", "whole"))
    assert all(torch.equal(restarted[name], value) for name, value in whole.items())


def rank_of(pid):
    """LOCAL_RANK of a process that is regfast's."""
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line).get("LOCAL_RANK")


def test_together_needs_a_process_group():
    held = images(8, 0)
    with pytest.raises(ValueError, match="together needs a process group"):
        train(load_model("small-cnn"), held, held, REGULARIZERS.build("hard"), Recipe(epochs=1), seed=0, together=True)
