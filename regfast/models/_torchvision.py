"""The one place that imports torchvision: `from regfast.models._torchvision import torchvision`.

A torchvision whose native library was built for another PyTorch (a CPU wheel of torch beside the default torchvision
wheel, say) fails on import, because it registers fake kernels for two detection operators that nobody defined.
Classification needs neither, so their schemas are defined here first when the library does not bring them.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _load_native_library() -> None:
    """As torchvision does itself on import; one that does not fit this torch is left out."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is needed for this: pip install 'regfast[vision]'")
    for path in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            continue


_load_native_library()
_library = torch.library.Library("torchvision", "FRAGMENT")  # the operators live as long as this object
for _name, _schema in _SCHEMAS.items():
    if not hasattr(torch.ops.torchvision, _name):
        _library.define(_schema)

import torchvision  # noqa: E402
import torchvision.transforms.v2  # noqa: E402

__all__ = ["torchvision"]
