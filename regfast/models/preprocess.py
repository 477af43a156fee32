"""From a PIL image to the tensor a network was published with: resize, central crop, values in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """The shorter side to `resize` pixels, then the central `crop` × `crop`; normalisation is the model's part."""

    resize: int
    crop: int
    interpolation: str = "bilinear"

    def __call__(self, image: Any) -> Tensor:
        """A PIL image to a float32 tensor (3, crop, crop) in [0, 1]."""
        from regfast.models._torchvision import torchvision

        functional = torchvision.transforms.functional
        mode = torchvision.transforms.InterpolationMode(self.interpolation)
        resized = functional.resize(image.convert("RGB"), self.resize, interpolation=mode)
        return functional.to_tensor(functional.center_crop(resized, self.crop))
