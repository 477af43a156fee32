"""A model as attacks ask it: images in [0, 1] to logits (B, K), whatever it takes and gives itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
Edge = float | Sequence[float] | Tensor

ROUNDING = 1e-6  # images this far outside of their range are clamped: normalizing and undoing it leaves so much


class Box:
    """The range of the user's images; attacks see it as [0, 1], so eps is a share of it: 8/255 means 8 of 255 levels.

    Args:
        bounds: (low, high), each a number or one per channel (C,); None is (0, 1).

    Raises:
        ValueError, TypeError: for bounds that are no such pair.
    """

    def __init__(self, bounds: tuple[Edge, Edge] | None = None):
        self.low, self.span = torch.tensor(0.0), torch.tensor(1.0)
        self.given = bounds is not None
        if bounds is None:
            return
        try:
            low, high = (torch.as_tensor(edge, dtype=torch.float32) for edge in bounds)
        except (TypeError, ValueError):
            raise TypeError(f"bounds must be (low, high), numbers or one per channel, got {bounds!r}") from None
        if low.ndim > 1 or high.ndim > 1 or not bool(((high > low) & low.isfinite() & high.isfinite()).all()):
            raise ValueError(f"bounds must be (low, high) with low < high, numbers or one per channel, got {bounds!r}")
        self.low, self.span = low, high - low

    def enter(self, images: Tensor) -> Tensor:
        """The user's images (N, C, H, W) as attacks see them, in [0, 1].

        Raises:
            ValueError: where they leave their range by more than rounding does.
        """
        if self.given:
            images = (images - self._edge(self.low, images)) / self._edge(self.span, images)
        if not images.numel():
            return images
        low, high = (float(edge) for edge in images.aminmax())
        if low < -ROUNDING or high > 1 + ROUNDING:
            if self.given:
                raise ValueError(f"images leave bounds: they range over [{low:.3g}, {high:.3g}] of the range given")
            raise ValueError(
                f"images must lie in [0, 1], got [{low:.3g}, {high:.3g}]: they look like normalized data; put the "
                "normalization into the model, or pass their range as bounds=(low, high)"
            )
        return images.clamp(0, 1) if low < 0 or high > 1 else images

    def leave(self, images: Tensor) -> Tensor:
        """Images in [0, 1] in the user's range; differentiable."""
        if not self.given:
            return images
        return self._edge(self.low, images) + self._edge(self.span, images) * images

    def _edge(self, values: Tensor, images: Tensor) -> Tensor:
        values = values.to(images)
        if values.ndim == 0:
            return values
        if images.ndim < 3 or images.shape[1] != len(values):
            raise ValueError(f"bounds have {len(values)} channels, images {tuple(images.shape)} have other ones")
        return values.view(-1, *[1] * (images.ndim - 2))


class Classifier:
    """`network` behind one calling convention.

    Args:
        network: from images to logits, or to something that holds `logits` (a dict, a Hugging Face output).
        dtype: what it takes; images are converted.
        box: the range of the images it takes.
        copies: it works in place, so it gets copies of the images.
    """

    def __init__(self, network: Model, dtype: torch.dtype, box: Box, *, copies: bool = False):
        self.network, self.dtype, self.box, self.copies = network, dtype, box, copies

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1]."""
        asked = self.box.leave(images).to(self.dtype)
        return logits_of(self.network(asked.clone() if self.copies and asked is images else asked))


def home(model: Model, images: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where the model computes and what it takes: as its parameters, else as the images."""
    tensors = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
    dtypes = (tensor.dtype for tensor in (*tensors, images) if tensor.is_floating_point())
    return tensors[0].device if tensors else images.device, next(dtypes, torch.float32)


def logits_of(output: object) -> Tensor:
    """The logits (B, K) in what a model gives back.

    Raises:
        TypeError: for anything but a tensor, or a mapping or object with `logits`.
        ValueError: for another shape, or one logit.
    """
    given = type(output).__name__
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif not isinstance(output, Tensor):
        output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"model must give logits (B, K) as a tensor, or something with `logits` in it, got {given}: wrap it, as in "
            "lambda images: model(images)[0]"
        )
    if output.ndim != 2:
        raise ValueError(f"model must give logits of shape (B, K), got {tuple(output.shape)}")
    if output.shape[1] < 2:
        raise ValueError(
            f"model must give one logit for each class, got shape {tuple(output.shape)}; if its logit z says class 1 "
            "against class 0, wrap it: lambda images: torch.nn.functional.pad(model(images), (1, 0))"
        )
    return output
