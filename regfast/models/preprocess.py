"""From a PIL image to the tensor a network was published with: resize, central crop, values in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "bicubic", "lanczos", "hamming", "box")


@dataclass(frozen=True)
class Preprocess:
    """The shorter side to `resize` pixels, then the central `crop` × `crop`; normalisation is the model's part.

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
        resized = functional.resize(image.convert("RGB"), self.resize, interpolation=mode)
        return functional.to_tensor(functional.center_crop(resized, self.crop))
