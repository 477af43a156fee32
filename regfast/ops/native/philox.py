"""Counter-based random numbers by the native extension."""

from __future__ import annotations

import torch
from torch import Tensor

_uniform = torch.ops.regfast.philox_uniform.default
_normal = torch.ops.regfast.philox_normal.default


def uniform(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    """See `regfast.ops.philox.uniform`."""
    return _uniform(signed(seed), sample, stage, restart, step, count)


def normal(seed: int, sample: Tensor, stage: int, restart: Tensor, step: Tensor, count: int) -> Tensor:
    """See `regfast.ops.philox.normal`."""
    return _normal(signed(seed), sample, stage, restart, step, count)


def signed(seed: int) -> int:
    """The int64 with the bits of `seed` in [0, 2^64)."""
    return seed - ((seed >> 63) << 64)
