import os

import numpy as np
import pytest
import torch

from regfast.data import pick_samples
from regfast.evaluation.identity import data_fingerprint
from regfast.evaluation.samples import OK, image_shape, load_chunk


class Listed:
    """A data set from a list; an exception in it is raised when it is read."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def test_limit_takes_a_seeded_subset():
    assert pick_samples(10, None, 0) == list(range(10))
    assert pick_samples(10, 99, 0) == list(range(10))
    some = pick_samples(1000, 50, 3)
    assert len(set(some)) == 50
    assert some == pick_samples(1000, 50, 3)
    assert some != pick_samples(1000, 50, 4)
    assert set(pick_samples(1000, 20, 3)) <= set(some), "a smaller limit is a part of a larger one"
    assert pick_samples(10, 0, 0) == []
    with pytest.raises(ValueError, match="limit"):
        pick_samples(10, -1, 0)


def test_each_bad_sample_is_named_and_the_others_go_on():
    good = torch.rand(3, 4, 4)
    items = [
        (good, 1),
        OSError("cannot identify image file"),
        (torch.full((3, 4, 4), float("nan")), 1),
        (good, 10),
        (good, -1),
        (good + 1, 1),
        (torch.rand(3, 5, 4), 1),
        (torch.rand(4, 4), 1),
        (np.full((3, 4, 4), 255, np.uint8), 2),
    ]
    chunk = load_chunk(Listed(items), range(len(items)), 10, (3, 4, 4))
    expected = [
        OK,
        "unreadable: OSError",
        "pixels are not finite",
        "label 10",
        "label -1",
        "pixels in",
        "shape",
        "not an image",
        OK,
    ]
    for status, start in zip(chunk.status, expected, strict=True):
        assert status.startswith(start), (status, start)
    assert chunk.usable.tolist() == [status == OK for status in expected]
    assert chunk.images.shape == (2, 3, 4, 4)
    assert torch.equal(chunk.images[1], torch.ones(3, 4, 4))
    assert chunk.labels.tolist() == [1, -1, 1, 10, -1, 1, 1, 1, 2]


def test_the_shape_of_a_run_is_what_most_readable_images_have():
    odd, usual = (torch.rand(1, 8, 8), 0), (torch.rand(3, 8, 8), 0)
    items = [OSError("no"), odd, usual, usual]
    assert image_shape(Listed(items), [0, 1, 2, 3]) == (3, 8, 8)
    assert image_shape(Listed(items), [0, 1, 2]) == (1, 8, 8), "the first of as many"
    items = [OSError("no")] * 1000
    items[501] = odd
    assert image_shape(Listed(items), range(1000)) == (1, 8, 8), "wherever the readable one is"
    assert image_shape(Listed(items), [0]) is None
    assert load_chunk(Listed(items), [0], 10, None).images.shape[0] == 0


@pytest.mark.parametrize(
    ("item", "status"),
    [
        ((torch.rand(3, 4, 4), 2**63), "label 9223372036854775808 is outside"),
        ((torch.rand(3, 4, 4), -(2**70)), "label -1180591620717411303424 is outside"),
        ((torch.rand(3, 4, 4), "cat"), "unreadable: ValueError"),
        ((torch.rand(3, 0, 4), 1), "not an image"),
        ((torch.rand(3, 4, 4),), "unreadable: ValueError"),
        ((torch.rand(3, 4, 4).to_sparse(), 1), ""),
        (OSError(os.fsdecode(b"caf\xe9.png")), "unreadable: OSError: caf\\udce9.png"),
        (MemoryError("10 TB"), "unreadable: MemoryError"),
        (RecursionError(), "unreadable: RecursionError"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_no_sample_ends_a_run(item, status, place):
    items = [(torch.rand(3, 4, 4), 1)] * 2
    items[place] = item
    shape = image_shape(Listed(items), [0, 1])
    chunk = load_chunk(Listed(items), [0, 1], 10, shape)
    assert shape == (3, 4, 4) and chunk.status[1 - place] == OK
    assert chunk.status[place] != OK and chunk.status[place].startswith(status)
    chunk.status[place].encode()  # fit for a file
    assert len(data_fingerprint(Listed(items))) == 16
