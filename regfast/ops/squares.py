"""Square Attack's move in linf: the best point so far with one square of one color set anew, in one pass."""

from __future__ import annotations

from torch import Tensor

from regfast.ops.dispatch import find

__all__ = ["repaint"]


def repaint(best: Tensor, image: Tensor, draws: Tensor, side: Tensor, eps: float | Tensor) -> Tensor:
    """`best`, with `image` ± eps, clamped to [0, 1], in a square (Andriushchenko et al. 2020, algorithm 2).

    Args:
        best: (S, C, H, W) float32.
        image: (S, C, H, W) float32, the clean one.
        draws: (S, 2 + C) float32, uniform in [0, 1): of the square's top, its left side, and the sign of each channel.
        side: (S,) int64 of the square, 1 to the least of H and W.
        eps: radius, a number, (S,), or one an entry: what broadcasts to (S, C, H, W).
    """
    return find("squares", "repaint", best)(best, image, draws, side, eps)
