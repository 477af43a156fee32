"""A training that is interrupted goes on to the same weights, bit for bit."""

import json
import os
import random
import signal

import pytest
import torch

from regfast.attacks import FGSM, Adversary
from regfast.data import ImageArray, Subset, load_splits
from regfast.models import load_model
from regfast.runs import OtherRun
from regfast.runs.errors import InputError
from regfast.training import REGULARIZERS, Recipe, SavedState, train
from tests.runs.kills import Job, finish, litter

TRAIN = ["regfast", "train", "--dataset", "digits", "--epochs", "6", "--device", "cpu", "--out"]


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def images():
    splits = load_splits("digits")
    return Subset(splits.train, torch.arange(64)), Subset(splits.holdout, torch.arange(50))


def run(images, state=None, stop=None, **options):
    """Three epochs; `stop` ends it inside the epoch of that number."""
    model, adversary = load_model("small-cnn", seed=0), Adversary(FGSM("linf", 0.1, random_start=True))
    recipe = Recipe(**{"epochs": 3, "batch_size": 32, "augment": True, **options})
    ended = []

    def on_batch(share):
        if stop is not None and share > 0.4 and len(ended) == stop - 1:
            raise Stop

    def on_epoch(epoch, judged):
        ended.append(epoch.epoch)
        return {"sum": float(judged.head.weight.detach().sum())}

    history = train(
        model, *images, REGULARIZERS.build("cutmix"), recipe, seed=2, adversary=adversary, state=state,
        on_epoch=on_epoch, on_batch=on_batch,
    )  # fmt: skip
    return model.state_dict(), history, ended


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "precision": "fp16", "channels_last": True, "accumulate": 2}])
def test_an_interrupted_training_ends_with_the_same_bits(images, tmp_path, options):
    expected, curves, _ = run(images, **options)
    state = SavedState(tmp_path / "state.pt")
    assert state.epochs == 0
    for stop, epochs in ((2, 1), (1, 1), (2, 2)):
        with pytest.raises(Stop):
            run(images, state, stop, **options)
        assert state.epochs == epochs
    weights, history, ended = run(images, state, **options)
    assert ended == [3] and history == curves and [epoch.noted for epoch in history] == [e.noted for e in curves]
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    again, history, ended = run(images, state, **options)  # all is done, and nothing was said to remove it
    assert not ended and history == curves
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    state.remove()
    assert not list(tmp_path.iterdir())


def test_another_training_is_refused(images, tmp_path):
    state = SavedState(tmp_path / "state.pt", {"data": "a"})
    run(images, state)
    with pytest.raises(OtherRun, match=r"recipe\.learning_rate: 0\.05 there, 0\.1 here"):
        run(images, state, learning_rate=0.1)
    with pytest.raises(OtherRun, match='data: "a" there, "b" here'):
        run(images, SavedState(state.path, {"data": "b"}))
    state.path.write_bytes(state.path.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged"):
        run(images, state)


@pytest.mark.slow
def test_a_command_killed_and_given_again(tmp_path):
    """At a random moment; `tests/runs/test_kills.py` has many."""
    draw = random.Random(os.environ["REGFAST_TEST_SEED"])
    peace, out = tmp_path / "peace" / "model.safetensors", tmp_path / "model.safetensors"
    peace.parent.mkdir()
    finish([*TRAIN, str(peace)])
    job = Job([*TRAIN, str(out)])
    job.wait_for(out.with_suffix(".resume.pt").is_file)
    job.wait_for(lambda: draw.random() < 0.2)
    job.end(signal.SIGKILL)
    finish([*TRAIN, str(out)])
    assert out.read_bytes() == peace.read_bytes()
    curves, expected = (json.loads(path.with_suffix(".json").read_text()) for path in (out, peace))
    assert curves["epochs"] == expected["epochs"] and curves["config"]["recipe"]["name"] == "digits"
    assert not litter(tmp_path) and not out.with_suffix(".resume.pt").exists()


def test_image_sets_of_the_users_own_are_read_by_workers(images):
    class Lazy:
        def __init__(self, held):
            self.labels, self.classes, self.held = held.labels, held.classes, held

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            return self.held[index]

    rows = torch.arange(64)
    held = ImageArray(images[0].batch(rows), images[0].labels, images[0].classes)
    models = []
    for given in (held, Lazy(held)):
        model = load_model("small-cnn", seed=0)
        train(model, given, images[1], REGULARIZERS.build("hard"), Recipe(epochs=1), seed=0)
        models.append(model.state_dict())
    # One more number is drawn for images that are read, after the order: the first epoch's is the same.
    assert all(torch.equal(models[1][name], value) for name, value in models[0].items())
