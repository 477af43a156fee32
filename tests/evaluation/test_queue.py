import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from regfast.evaluation.queue import chunk_samples, draw_chunks


@given(n=st.integers(0, 3000), workers=st.integers(1, 64), size=st.none() | st.integers(1, 700))
def test_chunks_hold_every_sample_once_in_order(n, workers, size):
    chunks = chunk_samples(range(n), workers, chunk_size=size)
    assert [sample for chunk in chunks for sample in chunk] == list(range(n))
    assert all(chunks)
    if size is not None:
        assert all(len(chunk) == size for chunk in chunks[:-1])


def test_guided_chunks_shrink_to_the_smallest():
    sizes = [len(chunk) for chunk in chunk_samples(range(50_000), 8, smallest=16, largest=512)]
    assert sizes[0] == 512
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert max(sizes[-8:]) == 16


@pytest.mark.parametrize(("workers", "size", "named"), [(0, None, "workers"), (1, 0, "chunk_size")])
def test_sizes_below_one_are_refused(workers, size, named):
    with pytest.raises(ValueError, match=named):
        chunk_samples(range(4), workers, chunk_size=size)


def test_two_workers_share_the_chunks():
    store = dist.HashStore()
    chunks = chunk_samples(range(100), 2, chunk_size=7)
    first, second = draw_chunks(chunks, store), draw_chunks(chunks, store)
    drawn = []
    for turn in range(len(chunks)):
        drawn.append(next(first if turn % 3 else second))
    assert drawn == chunks
    assert next(first, None) is None
    assert next(second, None) is None
