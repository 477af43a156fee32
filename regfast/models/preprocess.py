"""From a PIL image to the tensor a network was published with: resize, central crop, values in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos", "hamming", "box")
_LONGEST = 16  # sides up to this many times the shorter one are resized whole


@dataclass(frozen=True)
class Preprocess:
    """The shorter side to `resize` pixels, then the central `crop` × `crop`; normalization is the model's part.

    `interpolation` is one of `INTERPOLATIONS`. Raises ValueError for another, and for a crop larger than the image.
    """

    resize: int = 256
    crop: int = 224
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ValueError(f"crop must be between 1 and resize ({self.resize}), got {self.crop}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")

    def __str__(self) -> str:
        return f"shorter side to {self.resize} pixels ({self.interpolation}), central {self.crop}×{self.crop}"

    def __call__(self, image: Any) -> Tensor:
        """A PIL image to a float32 tensor (3, crop, crop) in [0, 1]."""
        from regfast.models._torchvision import torchvision

        functional = torchvision.transforms.functional
        mode = torchvision.transforms.InterpolationMode(self.interpolation)
        resized = functional.resize(_middle(as_rgb(image)), self.resize, interpolation=mode)
        return functional.to_tensor(functional.center_crop(resized, self.crop))


def as_rgb(image: Any) -> Any:
    """A PIL image in three channels of 8 bits, as PIL converts it; 16-bit and float values by the range of their type.

    PIL itself clips those to white. ValueError where white is unknown: for floats outside [0, 1], for 32-bit integers.
    """
    from PIL import Image

    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # a PNG has 16 bits at most
    if image.mode == "F":
        values, white = np.asarray(image), 1.0
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"float pixels must lie in [0, 1], got [{values.min():g}, {values.max():g}]")
    elif wide:
        values, white = np.asarray(image), 65535.0
    elif image.mode == "I":
        raise ValueError("pixels of 32-bit integers have no known white: save them with 8 or 16 bits")
    else:
        return image.convert("RGB")
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8)).convert("RGB")


def _middle(image: Any) -> Any:
    """The image without far ends that the crop leaves out: resized whole, a line of pixels takes gigabytes."""
    width, height = image.size
    reach = _LONGEST * min(width, height)
    if max(width, height) <= reach:
        return image
    left, top = max(0, width - reach) // 2, max(0, height - reach) // 2
    return image.crop((left, top, left + min(width, reach), top + min(height, reach)))
