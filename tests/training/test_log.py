"""What TensorBoard's and W&B's libraries are told, by stand-ins that write it down."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from regfast.runs.errors import MissingExtra
from regfast.training import Epoch
from regfast.training.log import open_log

EPOCHS = [Epoch(number, 1.0 / number, 0.1, 1.0, 0.5, 0.9, 1.1, 0.4, 0.6) for number in (3, 4)]
NAMES = {"loss", "learning_rate", "train_rms", "train_cosine", "accuracy", "rms", "cosine", "cosine_in_span"}


def write(kind, path):
    with open_log(kind, path, {"seed": 7}, epochs=2) as log:
        for epoch in EPOCHS:
            log(epoch)


def test_tensorboard(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            calls.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def flush(self):
            pass

        def close(self):
            calls.append("closed")

    library = ModuleType("torch.utils.tensorboard")
    library.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", library)
    write("tensorboard", tmp_path / "run")
    assert calls[0] == (str(tmp_path / "run"), 3) and calls[-1] == "closed"
    assert {call[0] for call in calls[1:-1]} == NAMES and len(calls) == 2 + 2 * len(NAMES)
    assert ("loss", 1 / 4, 4) in calls


def test_wandb(tmp_path, monkeypatch):
    calls = []
    run = SimpleNamespace(log=lambda row, step: calls.append((step, row)), finish=lambda: calls.append("finished"))
    library = ModuleType("wandb")
    library.init = lambda **options: calls.append(options) or run
    monkeypatch.setitem(sys.modules, "wandb", library)
    write("wandb", tmp_path / "run")
    assert calls[0]["config"] == {"seed": 7} and calls[0]["id"] == "run" and calls[0]["resume"] == "allow"
    assert [step for step, _ in calls[1:-1]] == [3, 4] and set(calls[1][1]) == NAMES and calls[-1] == "finished"


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match="pip install wandb"):
        write("wandb", tmp_path)
    with pytest.raises(ValueError, match="log must be one of tensorboard, wandb, got 'paper'"):
        write("paper", tmp_path)
    with open_log(None, tmp_path, {}) as log:
        log(EPOCHS[0])
    assert not list(tmp_path.iterdir())
