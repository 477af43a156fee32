"""The one place that imports torchvision: `from regfast.models._torchvision import torchvision`.

A torchvision whose native library was built for another PyTorch (a CPU wheel of torch beside the default torchvision
wheel, say) fails on import, because it registers fake kernels for two detection operators that nobody defined.
Classification needs neither, so their schemas are defined here in the library's place. One that fits is left alone.
"""

import importlib.util
import sys

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

if importlib.util.find_spec("torchvision") is None:
    raise ImportError("torchvision is needed for this: pip install 'regfast[vision]'")
try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    _library = torch.library.Library("torchvision", "FRAGMENT")  # the operators live as long as this object
    for _name, _schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, _name):
            _library.define(_schema)
    for _name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[_name]  # what was imported of it has a parent that is gone
    import torchvision
import torchvision.transforms.v2  # noqa: E402

__all__ = ["torchvision"]
