"""Batches from memory and from worker processes."""

import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from regfast.data import ImageArray, Subset, load_splits
from regfast.data.loading import Batches, for_training

CPU = torch.device("cpu")


@pytest.fixture
def files(tmp_path):
    pytest.importorskip("PIL")
    pytest.importorskip("regfast.models._torchvision", exc_type=ImportError)
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    return load_splits("imagefolder", tmp_path).train


def all_of(images, batches, seed=0):
    return torch.cat(list(Batches(images, CPU).images([torch.tensor(batch) for batch in batches], seed)))


def test_from_memory_they_are_as_they_are_stored():
    pixels = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8)
    held = Subset(ImageArray(pixels, torch.arange(6), "abcdef"), torch.tensor([5, 1, 3]))
    batches = Batches(held, CPU)
    assert batches.in_memory and batches.labels.tolist() == [5, 1, 3] and for_training(held) is held
    (found,) = batches.pixels([torch.tensor([2, 0])])
    assert torch.equal(found, pixels[[3, 5]])
    assert torch.equal(all_of(held, [[2], [0, 1]]), held.batch(torch.tensor([2, 0, 1])))


def test_workers_read_files(files):
    before = torch.random.get_rng_state()
    assert torch.equal(all_of(files, [[3, 1], [0]]), files.batch(torch.tensor([3, 1, 0])))
    assert torch.equal(torch.random.get_rng_state(), before)


AFTER_FORK = []
os.register_at_fork(after_in_parent=lambda: [call() for call in AFTER_FORK])


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="no fork to come in between")
def test_a_signal_while_workers_start_is_not_lost(files):
    class Ended(BaseException):
        pass

    def end(*_):
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    AFTER_FORK.append(lambda: signal.raise_signal(signal.SIGTERM))  # its handler runs before this returns
    try:
        with pytest.raises(Ended):
            all_of(files, [[0], [1]])
    finally:
        AFTER_FORK.clear()
        signal.signal(signal.SIGTERM, before)
    assert len(all_of(files, [[0], [1]])) == 2


def test_crops_are_drawn_from_the_seed_and_the_image_alone(files):
    training = for_training(files)
    found = all_of(training, [[0, 1, 2], [3]], seed=7)
    assert found.shape[1:] == files[0][0].shape and found.dtype == torch.float32
    assert torch.equal(all_of(training, [[0], [1], [2, 3]], seed=7), found)
    assert not torch.equal(all_of(training, [[0, 1, 2, 3]], seed=8), found)
    assert torch.equal(training.labels, files.labels)


def test_an_unreadable_file_is_named(files):
    path = files.whole.folder.samples[int(files.indices[1])][0]
    Path(path).write_bytes(b"no image")
    with pytest.raises(ValueError, match=re.escape(path)):
        all_of(files, [[0, 1]])
