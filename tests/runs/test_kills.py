"""Jobs that are killed, terminated or lose their parent: nothing finished is lost, nothing stays behind."""

import os
import random
import signal
import socket
import sys
import time

import pytest
from safetensors.numpy import load_file

from regfast.evaluation.compare import read_run
from regfast.models import load_model, save_checkpoint
from tests.evaluation import toy
from tests.runs.kills import TORCHRUN, TOY, Job, finish, litter

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes in /proc")
SLOWLY = ["--chunk-size", "4", "--delay", "0.05"]
SMALL = ["--size", "smoke", "--regularizer", "hard", "--regularizer", "mixup", "--epochs", "2", "--limit", "40"]
JOBS = {
    "study": ["regfast", "study", *SMALL, "--device", "cpu", "--workers", "2", "--no-report", "--out"],
    "paper": ["regfast", "paper", *SMALL, "--dataset", "digits", "--device", "cpu", "--workers", "2", "--no-report"]
    + ["--out"],
    "train": ["regfast", "train", "--dataset", "digits", "--epochs", "3", "--device", "cpu", "--out"],
}
MEASURED = ["--dataset", "digits", "--size", "smoke", "--limit", "60", "--attacked", "6", "--device", "cpu", "--no-report"]
MOMENTS = int(os.environ.get("REGFAST_TEST_KILLS", "20"))
RESULTS = ("*.parquet", "metrics.json", "studies/*/*.parquet", "studies/*/metrics.json")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return toy.run(tmp_path_factory.mktemp("runs") / "alone").rows()


def parts(out):
    return len(list(out.glob("parts/*.parquet")))


def test_an_evaluation_killed_while_it_writes_goes_on(alone, tmp_path):
    out, draw = tmp_path / "run", random.Random(os.environ["REGFAST_TEST_SEED"])
    for least in (1, 5):
        job = Job([*TOY, str(out), *SLOWLY])
        job.wait_for(lambda least=least: parts(out) >= least + draw.randrange(3))
        job.end(signal.SIGKILL)
    assert toy.run(out).rows().equals(alone) and not litter(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)])
def test_a_study_that_is_told_to_end_leaves_nothing_behind(tmp_path, number):
    out = tmp_path / "run"
    job = Job([*JOBS["study"], str(out)])
    job.wait_for(lambda: (out / "parts").is_dir())
    status, output = job.end(number)
    assert status == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], output
    assert "Traceback" not in output and not litter(out)


@pytest.mark.slow
def test_workers_end_with_a_killed_study(tmp_path):
    out = tmp_path / "run"
    job = Job([*JOBS["study"], str(out)])
    job.wait_for(lambda: (out / "parts").is_dir() and len(job.alive()) >= 3)
    job.end(signal.SIGKILL, within=10)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_torchrun(alone, tmp_path, number):
    out = tmp_path / "run"
    job = Job([*TORCHRUN, *TOY, str(out), *SLOWLY])
    job.wait_for(lambda: parts(out) >= 2)
    job.end(number, within=40)
    assert toy.run(out).rows().equals(alone) and not litter(out)


@pytest.mark.slow
def test_workers_that_torchrun_has_left_before_they_joined_end(tmp_path):
    job = Job([*TORCHRUN, *TOY, str(tmp_path / "run"), *SLOWLY])
    job.wait_for(lambda: len(job.alive()) >= 3)
    job.end(signal.SIGKILL, within=60)
    assert not (tmp_path / "run").exists()


def ranks(out, *options):
    """Two workers without torchrun, as srun starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [Job([*TOY, str(out), *options], RANK=str(rank), **common) for rank in (0, 1)]


@pytest.mark.slow
def test_a_worker_without_torchrun_ends_soon_after_its_leader(alone, tmp_path):
    out = tmp_path / "run"
    leader, worker = ranks(out, *SLOWLY)
    leader.wait_for(lambda: parts(out) >= 2)
    leader.end(signal.SIGKILL)
    worker.wait_for(lambda: False, seconds=15)
    assert worker.process.returncode == 1
    assert "the leading worker is gone" in worker.process.communicate()[0]
    assert toy.run(out).rows().equals(alone)


@pytest.mark.slow
def test_a_leader_does_not_wait_for_a_lost_worker_for_ever(alone, tmp_path):
    out = tmp_path / "run"
    leader, worker = ranks(out, *SLOWLY, "--patience", "3")
    leader.wait_for(lambda: parts(out) >= 2)
    worker.end(signal.SIGKILL)
    leader.wait_for(lambda: False, seconds=60)
    assert leader.process.returncode == 1
    assert "worker 1 has shown no sign of life" in leader.process.communicate()[0]
    assert toy.run(out).rows().equals(alone)


@pytest.mark.slow
def test_what_a_worker_stores_after_its_job_is_gone_mixes_nothing_in(alone, tmp_path):
    """A stopped worker wakes up when the next job is done, and stores samples that this one has stored too."""
    out = tmp_path / "run"
    leader, worker = ranks(out, *SLOWLY)
    leader.wait_for(lambda: parts(out) >= 2)
    worker.process.send_signal(signal.SIGSTOP)
    leader.end(signal.SIGKILL)
    toy.run(out, chunk_size=7)
    worker.process.send_signal(signal.SIGCONT)
    worker.end(signal.SIGCONT, within=15)
    assert read_run(out)[1].equals(alone)


@pytest.mark.exhaustive
def test_ranks_share_the_units_of_a_study_or_train_each_together(tmp_path):
    small = ["regfast", "study", "--size", "smoke", "--regularizer", "hard", "--regularizer", "mixup", "--epochs", "1"]
    small += ["--limit", "8", "--device", "cpu", "--no-report", "--out"]
    finish([*TORCHRUN, *small, str(tmp_path / "ranks")])
    finish([*small, str(tmp_path / "one"), "--workers", "1"])
    assert results("study", tmp_path / "ranks") == results("study", tmp_path / "one") != {}
    finish([*TORCHRUN, *small, str(tmp_path / "together"), "--parallel", "ddp"])
    found = results("study", tmp_path / "together")
    assert set(found) == set(results("study", tmp_path / "one"))
    assert found != results("study", tmp_path / "one")  # batch norm counts a rank's images
    assert not litter(tmp_path)


def results(job, out):
    if job == "train":
        return {name: array.tobytes() for name, array in load_file(out).items()}
    return {path.relative_to(out): path.read_bytes() for pattern in RESULTS for path in out.glob(pattern)}


def commands(job, folder):
    """What makes `job` in `folder`, and where its results lie; `folder` becomes one with the inputs of the job."""
    folder.mkdir()
    if job == "evaluate":
        return [*TOY, str(folder / "run"), "--chunk-size", "2", "--delay", "0.1"], folder / "run"
    if job == "measure":
        checkpoint = folder.parent / "a.safetensors"
        save_checkpoint(load_model("small-cnn", seed=0).network_state(), checkpoint)
        network = f"a=small-cnn@{checkpoint}"
        return ["regfast", "measure", "--network", network, *MEASURED, "--out", str(folder / "run")], folder / "run"
    out = folder / ("run.safetensors" if job == "train" else "run")
    return [*JOBS[job], str(out)], out


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["one process", "torchrun"])
@pytest.mark.parametrize("job", ["evaluate", "measure", *JOBS])
def test_killed_at_many_moments_the_results_are_those_of_a_run_in_peace(job, launcher, alone, tmp_path):
    draw = random.Random(os.environ["REGFAST_TEST_SEED"])
    command, out = commands(job, tmp_path / "killed")
    in_peace, peace = commands(job, tmp_path / "peace")
    for _ in range(MOMENTS):
        running = Job([*launcher, *command])
        running.wait_for(lambda: any(out.parent.rglob(".*.lock")))
        moment = time.monotonic() + draw.uniform(0, 6)
        running.wait_for(lambda moment=moment: time.monotonic() > moment)
        running.end(signal.SIGKILL, within=60)
    together = launcher if job == "train" else []  # ranks train one model together; all else they share
    finish([*together, *command], seconds=1200)
    if job == "evaluate":
        assert read_run(out)[1].equals(alone)
    else:
        finish([*together, *in_peace], seconds=1200)
        assert results(job, out) == results(job, peace) != {}
    assert not litter(out.parent)
