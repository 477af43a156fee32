"""The model and the images that `attack` and `evaluate` are given, and what there is to say about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from regfast.data import ImageSet

_LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Inputs:
    """Model and images of `shape` (C, H, W), the name of the model (which says so where it is untrained), and lines
    about both."""

    model: Callable[[Tensor], Tensor]
    data: ImageSet
    shape: tuple[int, ...]
    name: str
    notes: list[str]


def open_inputs(
    model: str,
    checkpoint: Path | None,
    weights: str | None,
    dataset: str,
    data_root: Path | None,
    *,
    download: bool,
    seed: int,
    class_map: str | None,
    resize: int | None,
    crop: int | None,
    interpolation: str | None,
) -> Inputs:
    """Open what the options of these names say.

    Raises ValueError, TypeError, FileNotFoundError or ImportError for options that don't fit each other, for images
    whose classes are not the model's, and for what is missing.
    """
    import torch

    from regfast.data import DATASETS, ImageFiles, load_images, map_classes
    from regfast.evaluation.samples import image_shape
    from regfast.evaluation.worker import count_classes
    from regfast.models import Preprocess, load_model

    asked: dict[str, Any] = {"resize": resize, "crop": crop, "interpolation": interpolation}
    given = {option: value for option, value in asked.items() if value is not None}
    DATASETS.find(dataset)
    if dataset != "imagefolder" and (given or class_map):
        first = next(iter(given), "class-map")
        raise ValueError(f"--{first} is for --dataset imagefolder: the images of {dataset} are taken as they are")
    Preprocess(resize or 2**31, crop or 1, interpolation or "bilinear")  # its own checks, before anything is loaded
    files = dataset == "imagefolder"
    data = None if files else load_images(dataset, data_root, download=download)
    own = ":" in model and model.partition(":")[0] not in _LIBRARIES
    network: Any
    if own and checkpoint is None and weights is None:
        network = _made(model)
    else:
        shape = None if data is None else image_shape(data, range(len(data)))
        channels = None if shape is None else shape[0]
        network = load_model(model, checkpoint, weights=weights, seed=seed, in_channels=channels)
    notes = [f"model {model}: {_inside(network)}"]
    name = model
    if not own and checkpoint is None and weights is None:
        name = f"{model} (untrained)"
        notes.append(f"UNTRAINED: no --checkpoint and no --weights, so {model} has random weights (seed {seed})")
    if data is None:
        prepare = getattr(network, "preprocess", None)
        if given:
            prepare = replace(prepare if isinstance(prepare, Preprocess) else Preprocess(), **given)
        data = load_images(dataset, data_root, transform=prepare)
    shape = image_shape(data, range(len(data)))
    if shape is None:
        raise ValueError(f"none of the {len(data)} images of {dataset} in {data_root} can be read")
    classes = count_classes(network, shape, torch.device("cpu"))
    notes.append(f"data {dataset}: {len(data)} images of shape {shape}")
    if isinstance(data, ImageFiles):
        chosen = map_classes(data.classes, classes, class_map)
        notes[-1] += f"; {data.preprocess}; {chosen.source}"
        data = data.mapped(chosen)
    elif len(data.classes) > classes:
        raise ValueError(f"{model} has {classes} classes, {dataset} has {len(data.classes)}")
    return Inputs(network, data, shape, name, notes)


def _made(model: str) -> Callable[[Tensor], Tensor]:
    """What the user's `module:factory` returns."""
    from regfast.registry import load

    made: Callable[[Tensor], Tensor] = load(model, "--model")()
    if not callable(made):
        raise ValueError(f"--model {model} gave {type(made).__name__}, not a callable from images to logits")
    return made


def _inside(network: Any) -> str:
    """Normalization, said first: the commonest mistake is to normalize twice, or not at all."""
    normalize = getattr(network, "normalize", None)
    if normalize is None:
        return "images in [0, 1] as they are"
    if normalize.identity:
        return "images in [0, 1], no normalization inside"
    mean, std = ([round(float(x), 4) for x in tensor.flatten()] for tensor in (normalize.mean, normalize.std))
    return f"images in [0, 1], normalized inside with mean {mean}, std {std}"
