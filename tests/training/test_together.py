"""Two ranks train one model as one process does."""

import socket

import pytest
import torch

from regfast.models import load_model
from regfast.training import REGULARIZERS, Recipe, train
from tests.runs.kills import Job
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


def test_together_needs_a_process_group():
    held = images(8, 0)
    with pytest.raises(ValueError, match="together needs a process group"):
        train(load_model("small-cnn"), held, held, REGULARIZERS.build("hard"), Recipe(epochs=1), seed=0, together=True)
