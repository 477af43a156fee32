"""Square Attack's move in linf; the meaning is in `regfast.ops.squares`."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["repaint", "signs_of", "window"]


def repaint(best: Tensor, image: Tensor, draws: Tensor, side: Tensor, eps: float | Tensor) -> Tensor:
    """See `regfast.ops.squares`."""
    rows, columns = window(draws[:, :2], side, image)
    radius = eps.view(-1, 1, 1, 1) if isinstance(eps, Tensor) and eps.ndim == 1 else eps
    color = image + radius * signs_of(draws[:, 2:]).view(*image.shape[:2], 1, 1)
    return torch.where((rows & columns).unsqueeze(1), color.clamp_(0, 1), best)


def signs_of(draws: Tensor) -> Tensor:
    """-1 and 1, by halves of [0, 1)."""
    return 2 * (draws >= 0.5).to(draws.dtype) - 1


def window(draws: Tensor, sides: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """(S, H, 1) and (S, 1, W) bool: a square of side `sides` at a place drawn uniformly; draws (S, 2) in [0, 1)."""
    height, width = image.shape[-2:]
    top = (draws[:, 0] * (height - sides + 1)).long().view(-1, 1, 1)
    left = (draws[:, 1] * (width - sides + 1)).long().view(-1, 1, 1)
    y, x = torch.arange(height, device=image.device).view(1, -1, 1), torch.arange(width, device=image.device)
    side = sides.view(-1, 1, 1)
    return (y >= top) & (y < top + side), (x >= left) & (x < left + side)
