"""Seeded initialization and dropout without touching the caller's random state."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Inside, PyTorch's default generators start from `seed`; afterwards they are as they were. None changes nothing.

    Constructors of `torch.nn` layers and dropout draw from the default generators and take no other.
    """
    if seed is None:
        yield
        return
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.random.manual_seed(seed)
        yield
