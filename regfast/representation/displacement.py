"""How an attack moves features: along the radius or across it, toward the origin or away."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regfast.checks import checked, floats


class Displacement(NamedTuple):
    """Displacement of each feature, all (B,), in the features' dtype (at least float32)."""

    norm: Tensor  # length of the displacement
    radial: Tensor  # signed component along the clean feature: negative is toward the origin
    tangential: Tensor  # length of the component across it
    toward_origin: Tensor  # cosine between the displacement and the direction to the origin; NaN for no displacement


@checked(clean=floats("B", "d"), attacked=floats("B", "d"))
def feature_displacement(clean: Tensor, attacked: Tensor) -> Displacement:
    """Radial and tangential part of ``attacked - clean``, both (B, d) floating.

    ``norm² = radial² + tangential²`` and ``toward_origin = -radial / norm``. A clean feature of length 0 has no radius:
    its radial and tangential part and its cosine are NaN. A feature that did not move has a NaN cosine.

    Raises:
        ValueError: shapes that differ or are not (B, d).
    """
    dtype = torch.float64 if clean.dtype == torch.float64 else torch.float32
    clean = clean.detach().to(dtype)
    moved = attacked.detach().to(dtype) - clean
    unit = clean / clean.norm(dim=1, keepdim=True)
    radial = (moved * unit).sum(dim=1)
    # The residual's own length, not sqrt(norm² - radial²), which cancels when a displacement is almost radial.
    tangential = (moved - radial[:, None] * unit).norm(dim=1)
    norm = moved.norm(dim=1)
    return Displacement(norm, radial, tangential, (-radial / norm).clamp(-1, 1))
