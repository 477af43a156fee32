"""The work queue: which samples make a chunk, and who takes the next one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.distributed as dist

__all__ = ["chunk_samples", "draw_chunks"]


def chunk_samples(
    samples: Sequence[int], workers: int, *, chunk_size: int | None = None, smallest: int = 16, largest: int = 512
) -> list[list[int]]:
    """Cut `samples` into chunks, in order.

    Without `chunk_size` the chunks shrink toward the end (guided self-scheduling, Polychronopoulos and Kuck 1987): each
    takes a quarter of one worker's fair share of what is left, between `smallest` and `largest` samples. Large chunks
    keep an attack's lanes full, small ones at the end let all workers finish together.

    Args:
        samples: sample ids still to do.
        workers: number of workers that will draw from the queue, at least 1.
        chunk_size: the same size for every chunk instead, at least 1.
        smallest: least number of samples in a guided chunk.
        largest: greatest number of samples in a guided chunk.

    Raises:
        ValueError: if `workers` or `chunk_size` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    chunks: list[list[int]] = []
    start = 0
    while start < len(samples):
        share = (len(samples) - start) // (4 * workers)
        size = chunk_size or min(max(share, smallest), largest)
        chunks.append([int(sample) for sample in samples[start : start + size]])
        start += size
    return chunks


def draw_chunks(chunks: Sequence[list[int]], store: dist.Store, key: str = "next-chunk") -> Iterator[list[int]]:
    """Yield the chunks that this worker draws; every chunk goes to exactly one of the workers that share `store`.

    The counter is the whole coordination: one atomic addition a chunk, no leader, nobody waits.
    """
    while (drawn := store.add(key, 1) - 1) < len(chunks):
        yield chunks[drawn]
