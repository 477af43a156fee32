"""`load_model`: a classifier by name, ready to be trained or attacked."""

import inspect
from collections.abc import Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from regfast.models.checkpoint import read_checkpoint
from regfast.models.preprocess import Preprocess
from regfast.models.resnet import DEPTHS, MEAN, STD, CifarResNet
from regfast.models.seed import seeded
from regfast.models.small_cnn import SmallCNN
from regfast.models.split import SplitClassifier, split_classifier
from regfast.registry import load, nearest

OWN_MODELS = ("small-cnn", *(f"resnet{depth}" for depth in DEPTHS))


class _Network(NamedTuple):
    module: nn.Module
    mean: Sequence[float] | None
    std: Sequence[float] | None
    image_shape: tuple[int, int, int]
    preprocess: Preprocess | None = None


def load_model(
    name: str,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    weights: str | None = None,
    *,
    in_channels: int | None = None,
    seed: int | None = None,
) -> SplitClassifier:
    """The classifier `name`, split into features and head, taking images in [0, 1]; in evaluation mode.

    `name`: small-cnn, resnet20, resnet32, resnet44, resnet56, resnet110 (CIFAR-style, He et al. 2016, option A),
    `torchvision:NAME`, `timm:NAME`, or your own `module:factory`, a function or class that gives a module and gets
    `num_classes` and `in_channels` if it takes them. `checkpoint`: a safetensors file or a state dict. `num_classes`:
    by default the checkpoint's, or else what the architecture was published with. `weights`: pretrained weights by the
    library's own name ("DEFAULT", "IMAGENET1K_V2"; for timm "DEFAULT" or a tag), which may download; without it nothing
    ever is.
    `in_channels`: 1 for small-cnn and 3 for the others by default. `seed`: of the initial weights.

    Raises TypeError for arguments of the wrong type, ValueError for an unknown name and for a checkpoint that does not
    fit, naming what differs, and FileNotFoundError for a checkpoint that is not there.

    >>> model = load_model("resnet20", num_classes=10, seed=0)
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if checkpoint is not None and weights is not None:
        raise ValueError(f"give checkpoint or weights, not both (got {str(checkpoint)!r} and {weights!r})")
    if not isinstance(name, str):
        raise TypeError(f"name must be text, got {name!r}")
    for argument, count, least in (("num_classes", num_classes, 2), ("in_channels", in_channels, 1), ("seed", seed, 0)):
        if count is not None and not isinstance(count, Integral):
            raise TypeError(f"{argument} must be a whole number, got {count!r}")
        if count is not None and not least <= count < 2**63:
            raise ValueError(f"{argument} must be at least {least} and below 2**63, got {count}")
    if checkpoint is None:
        return _build(name, num_classes, weights, in_channels, seed)
    state = read_checkpoint(checkpoint)
    model = _build(name, num_classes, None, in_channels, seed)
    head = state.get(f"{model.head_name}.weight")
    if num_classes is None and head is not None and head.dim() == 2 and len(head) != model.num_classes:
        model = _build(name, len(head), None, in_channels, seed)
    model.load_network_state(state, checkpoint)
    return model


def _build(
    name: str, num_classes: int | None, weights: str | None, in_channels: int | None, seed: int | None
) -> SplitClassifier:
    family, _, rest = name.rpartition(":")
    with seeded(seed):
        if family == "torchvision":
            network = _torchvision_network(rest, num_classes, weights, in_channels)
        elif family == "timm":
            network = _timm_network(rest, num_classes, weights, in_channels)
        elif name in OWN_MODELS:
            network = _own_network(name, num_classes or 10, weights, in_channels)
        elif family:
            return _from_factory(name, num_classes, weights, in_channels)
        else:
            raise ValueError(
                f"no model is called {name!r}{_elsewhere(name) or nearest(name, OWN_MODELS)}; there are "
                f"{', '.join(OWN_MODELS)}, torchvision:NAME, timm:NAME, or your own as module:factory"
            )
    example = torch.rand((1, *network.image_shape), generator=torch.Generator().manual_seed(0))
    model = split_classifier(network.module.eval(), mean=network.mean, std=network.std, example=example)
    model.preprocess = network.preprocess
    return model


def _from_factory(name: str, num_classes: int | None, weights: str | None, in_channels: int | None) -> SplitClassifier:
    """What the user's `module:factory` makes; it is given `num_classes` and `in_channels` if it takes them."""
    if weights is not None:
        raise ValueError(f"{name} has no published weights ({weights!r}): pass checkpoint=, a file")
    factory = load(name, "model")
    taken = inspect.signature(factory).parameters
    given = {"num_classes": num_classes, "in_channels": in_channels}
    module = factory(**{key: value for key, value in given.items() if key in taken and value is not None})
    if not isinstance(module, nn.Module):
        raise ValueError(f"model {name} must give a torch.nn.Module, got {type(module).__name__}")
    model = split_classifier(module.eval())
    model.preprocess = getattr(module, "preprocess", None)
    if num_classes not in (None, model.num_classes):
        raise ValueError(f"{name} gave a model of {model.num_classes} classes, {num_classes} are needed")
    return model


def _own_network(name: str, num_classes: int, weights: str | None, in_channels: int | None) -> _Network:
    if weights is not None:
        raise ValueError(f"{name} has no published weights ({weights!r}): pass checkpoint=, a file")
    if name == "small-cnn":
        channels = in_channels or 1
        return _Network(SmallCNN(num_classes, channels), None, None, (channels, 8, 8))
    channels = in_channels or 3
    # CIFAR's usual normalization has three channels; other images pass as they are.
    mean, std = (MEAN, STD) if channels == 3 else (None, None)
    depth = int(name.removeprefix("resnet"))
    return _Network(CifarResNet(depth, num_classes, channels), mean, std, (channels, 32, 32))


def _torchvision_network(name: str, num_classes: int | None, weights: str | None, in_channels: int | None) -> _Network:
    from regfast.models._torchvision import torchvision

    models = torchvision.models
    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(f"torchvision has no classifier called {name!r}{nearest(name, names)}")
    if in_channels not in (None, 3):
        raise ValueError(f"torchvision's models take 3 channels, got in_channels={in_channels}")
    published = models.get_model_weights(name)
    if weights is not None and weights != "DEFAULT" and weights not in published.__members__:
        raise ValueError(f"torchvision:{name} has no weights {weights!r}; there are {', '.join(published.__members__)}")
    chosen = published["DEFAULT" if weights is None else weights]
    options = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3") and weights is None:
        options["init_weights"] = True  # only silences a warning about the choice
    module = models.get_model(name, weights=None if weights is None else chosen, **options)
    preset = chosen.transforms()
    size = preset.crop_size[0]
    preprocess = Preprocess(preset.resize_size[0], size, preset.interpolation.value)
    return _Network(module, preset.mean, preset.std, (3, size, size), preprocess)


def _timm_network(name: str, num_classes: int | None, weights: str | None, in_channels: int | None) -> _Network:
    from regfast.models import _torchvision  # noqa: F401 (timm imports torchvision)

    try:
        import timm
        from timm.data.config import resolve_model_data_config
    except ImportError as error:
        raise ImportError("timm is needed for this: pip install 'regfast[vision]'") from error
    if not timm.is_model(name):
        raise ValueError(f"timm has no model called {name!r}{nearest(name, timm.list_models())}")
    tagged = name if weights in (None, "DEFAULT") else f"{name}.{weights}"
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if in_channels is not None:
        options["in_chans"] = in_channels
    module = timm.create_model(tagged, pretrained=weights is not None, **options)
    data = resolve_model_data_config(module)
    channels, height, width = data["input_size"]
    mean, std = data["mean"], data["std"]
    if in_channels not in (None, channels):
        # timm sums or repeats the first layer's weights over the channels; the images' statistics are averaged alike.
        channels, mean, std = in_channels, (sum(mean) / len(mean),), (sum(std) / len(std),)
    preprocess = Preprocess(int(width / data["crop_pct"]), width, data["interpolation"])
    return _Network(module, mean, std, (channels, height, width), preprocess)


def _elsewhere(name: str) -> str:
    """The hint, if torchvision or timm is installed and has a model of this very name."""
    found = []
    with suppress(ImportError):
        from regfast.models._torchvision import torchvision

        if name in torchvision.models.list_models(module=torchvision.models):
            found.append(f"torchvision:{name}")
        import timm

        if timm.is_model(name):
            found.append(f"timm:{name}")
    return f" (did you mean {' or '.join(found)}?)" if found else ""
