"""Square Attack's move on a GPU: one launch (see `regfast.ops.squares`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regfast.ops.triton.launch import launch

__all__ = ["repaint"]

_BLOCK = 1024


def repaint(best: Tensor, image: Tensor, draws: Tensor, side: Tensor, eps: float | Tensor) -> Tensor:
    """See `regfast.ops.squares`."""
    best, image = best.contiguous(), image.contiguous()
    lanes, channels, height, width = image.shape
    chunks = triton.cdiv(channels * height * width, _BLOCK)
    out, radii, by_entry = torch.empty_like(best), None, False
    if isinstance(eps, Tensor):
        by_entry = eps.ndim > 1
        radii = eps.expand(image.shape if by_entry else (lanes,)).contiguous()
    launch(
        repaint_kernel, lanes * chunks, image.device,
        best, image, draws.contiguous(), side.contiguous(), radii, out, channels, height, width, chunks,
        0.0 if isinstance(eps, Tensor) else eps, BY_ENTRY=by_entry, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def repaint_kernel(
    best, image, draws, side, radii, out, channels, height, width, chunks, eps,
    BY_ENTRY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A chunk of a lane a program."""
    program = tl.program_id(0)
    lane, chunk = program // chunks, program % chunks
    cols = chunk * BLOCK + tl.arange(0, BLOCK)
    size = channels * height * width
    ok = cols < size
    at = lane.to(tl.int64) * size + cols
    drawn, length = draws + lane * (2 + channels), tl.load(side + lane).to(tl.int32)
    top = (tl.load(drawn) * (height - length + 1).to(tl.float32)).to(tl.int32)
    left = (tl.load(drawn + 1) * (width - length + 1).to(tl.float32)).to(tl.int32)
    channel, y, x = cols // (height * width), cols // width % height, cols % width
    inside = ok & (y >= top) & (y < top + length) & (x >= left) & (x < left + length)
    sign = tl.where(tl.load(drawn + 2 + channel, mask=inside, other=0.0) < 0.5, -1.0, 1.0)
    if BY_ENTRY:
        radius = tl.load(radii + at, mask=inside, other=0.0)
    elif radii is not None:
        radius = tl.load(radii + lane)
    else:
        radius = eps
    color = tl.load(image + at, mask=inside, other=0.0) + radius * sign
    color = tl.minimum(tl.maximum(color, 0.0), 1.0)
    tl.store(out + at, tl.where(inside, color, tl.load(best + at, mask=ok & (inside == 0), other=0.0)), mask=ok)
