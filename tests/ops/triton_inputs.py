"""What the tests of Triton kernels share: inputs, and outputs that nothing but a kernel can have filled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """torch.empty and its kin are filled with NaN (integers: the largest), so that an entry no kernel wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def logits(rows: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(torch.initial_seed() + 7919 * rows + classes + seed)
    return (3 * torch.randn(rows, classes, generator=generator)).to(dtype)


def apart(rows: int, classes: int) -> Tensor:
    """Logits that no two of a row are near, the largest of them near 0: DLR divides by the distance of the largest."""
    places = torch.stack([torch.randperm(classes) for _ in range(rows)])
    return (places - classes) / 8 + torch.rand(rows, classes) / 16


def of_a_rows_size(gradient: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both divided by the row's largest entry, if that is above 1: other entries may be the difference of two such."""
    size = right.nan_to_num(0).abs().amax(1, keepdim=True).clamp(min=1)
    return gradient.double() / size, right / size


def labels(rows: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(torch.initial_seed() + seed + rows))


def unaligned(tensor: Tensor) -> Tensor:
    """The same values one element behind a 16-byte boundary."""
    held = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    held[1:] = tensor.reshape(-1)
    return held[1:].view(tensor.shape)


def strided(tensor: Tensor) -> Tensor:
    """The same values with gaps between the rows."""
    held = torch.empty(tensor.shape[0], tensor.shape[1] + 5, dtype=tensor.dtype, device=tensor.device)
    held[:, 2:-3] = tensor
    return held[:, 2:-3]
