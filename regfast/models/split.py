"""Any classifier as features and head: `SplitClassifier`, and `split_classifier` that finds the last linear layer."""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional

from regfast.models.checkpoint import mismatch
from regfast.models.preprocess import Preprocess


class Normalize(nn.Module):
    """`(images - mean) / std` per channel; with neither given, images pass unchanged."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        self.identity = mean is None and std is None
        mean = (0.0,) if mean is None else _channels("mean", mean)
        std = (1.0,) if std is None else _channels("std", std)
        if not all(value > 0 for value in std):
            raise ValueError(f"std must be positive in every channel, got {std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] to the values the network was trained on."""
        return images if self.identity else (images - self.mean) / self.std


def _channels(name: str, values: Sequence[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold a number for each channel, got {values!r}") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be finite, got {numbers}")
    return numbers


class SplitClassifier(nn.Module):
    """A classifier in two parts: images in [0, 1] (B, C, H, W) → features (B, d) → logits (B, K).

    `head` is the network's last `nn.Linear`; `backbone` is the rest of it and shares its parameters with the network it
    came from. `head_name` is the head's name there, so that `network_state()` keeps the network's own names.
    `preprocess` makes a tensor in [0, 1] of a PIL image as the published weights expect it; None where nobody says.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear, head_name: str, normalize: Normalize | None = None):
        super().__init__()
        self.normalize = Normalize() if normalize is None else normalize
        self.backbone = backbone
        self.head = head
        self.head_name = head_name
        self.preprocess: Preprocess | None = None

    def features(self, images: Tensor) -> Tensor:
        """Penultimate representation (B, d): the head's input."""
        return self.backbone(self.normalize(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.head(self.features(images))

    @property
    def num_classes(self) -> int:
        """K, the number of logits."""
        return self.head.out_features

    def network_state(self) -> dict[str, Tensor]:
        """The state dict under the names of the network that was split: what checkpoints hold."""
        state = dict(self.backbone.state_dict())
        state.update({f"{self.head_name}.{key}": value for key, value in self.head.state_dict().items()})
        return state

    def load_network_state(self, state: Mapping[str, Tensor], source: str | Path = "") -> None:
        """Copy a checkpoint's tensors (the network's own names) into the model.

        Raises ValueError that names what is missing, left over or of another shape; `source` says where it came from.
        """
        own = self.network_state()
        problem = mismatch(own, state)
        if problem:
            raise ValueError(f"checkpoint {source} does not fit the model; {problem}")
        with torch.no_grad():
            for name, tensor in own.items():
                if name in state:
                    tensor.copy_(state[name])


def split_classifier(
    model: nn.Module,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    example: Tensor | None = None,
) -> SplitClassifier:
    """Split `model` at its last linear layer: the one whose output is the model's output.

    `mean`, `std`: per channel, applied to images in [0, 1] before the model. `example`: one batch of the model's input
    (B, C, H, W) to find and check the split with; by default a random square image of 224, 32 or 8 pixels, the first
    that it accepts. The model itself stays as it is, the mode of each of its layers too; its parameters are shared, not
    copied.

    Raises ValueError that names the linear layers there are when none of them gives the model's output, for a last
    layer that is more than its weight and bias (a hook, a scale), and for a compiled, wrapped (DataParallel,
    DistributedDataParallel, FSDP) or scripted model, which has to be split first.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 5))
    >>> model = split_classifier(network)
    >>> model.features(torch.rand(2, 3, 8, 8)).shape, model.head
    (torch.Size([2, 16]), Linear(in_features=16, out_features=5, bias=True))
    """
    if isinstance(model, SplitClassifier):
        return model
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if example is not None and not (isinstance(example, Tensor) and example.dim() > 1):
        raise TypeError(f"example must be a batch, a tensor (B, …), got {type(example).__name__}")
    _check_plain(model)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            batch, output, calls = _watch_linear_layers(model, example)
            if bool(output.isnan().any()):
                raise ValueError(f"cannot split {type(model).__name__}: its output is NaN; are its weights NaN?")
            name = _head_name(model, output, calls)
            head = model.get_submodule(name)
            assert isinstance(head, nn.Linear)
            features = _without(model, name)(batch)
            if features.shape != (len(output), head.in_features) or not torch.equal(head(features), output):
                raise ValueError(
                    f"cannot split {type(model).__name__}: its logits are not {name!r} of one feature vector per image "
                    f"(features of shape {tuple(features.shape)}){_patched(model, name)}"
                )
            _check_linear(model, name, head, features, output)
    finally:
        for module, training in modes:  # a frozen layer may be in another mode than the model
            module.training = training
    split = SplitClassifier(_without(model, name), head, name, Normalize(mean, std))
    split.training = split.normalize.training = model.training
    return split


def _check_plain(model: nn.Module) -> None:
    """ValueError for a model whose layers are out of reach, or whose wrapper would be lost without a word."""
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"cannot split {kind}: TorchScript cannot be taken apart; split the Python model it came from")
    for inner in ("_orig_mod", "_fsdp_wrapped_module"):
        if isinstance(getattr(model, inner, None), nn.Module):
            raise ValueError(f"cannot split {kind}: split the model inside ({inner}), then compile or wrap the result")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"cannot split {kind}: split the model inside (.module), then wrap the result")


def _patched(model: nn.Module, name: str) -> str:
    """The reason, if a module on the way to layer `name` has a forward of its own put over its class's."""
    way = name.split(".")
    patched = [".".join(way[:i]) or "the model" for i in range(len(way)) if "forward" in vars(_at(model, way[:i]))]
    return f"; the forward of {patched[0]} was replaced by one that runs the layer itself" if patched else ""


def _check_linear(model: nn.Module, name: str, head: nn.Linear, features: Tensor, output: Tensor) -> None:
    """ValueError where the last layer is more than its weight and bias, from which class centers are computed."""
    plain = functional.linear(features, head.weight, head.bias)
    size = functional.linear(features.abs(), head.weight.abs(), None if head.bias is None else head.bias.abs())
    if bool(((plain - output).abs() > 4 * torch.finfo(output.dtype).eps * size.max()).any()):
        raise ValueError(
            f"cannot split {type(model).__name__}: its last layer {name!r} does not give weight @ v + bias: a hook, "
            "a replaced forward or a subclass of nn.Linear changes it. Put that change into the weight and bias."
        )


def _at(model: nn.Module, way: Sequence[str]) -> nn.Module:
    return model.get_submodule(".".join(way))


def _watch_linear_layers(model: nn.Module, example: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The batch that ran, the model's output, and each linear layer's (last) output by name."""
    calls: dict[str, Tensor] = {}

    def remember(name: str) -> torch.utils.hooks.RemovableHandle:
        layer = model.get_submodule(name)
        return layer.register_forward_hook(lambda _module, _inputs, output: calls.__setitem__(name, output))

    handles = [remember(name) for name in _linear_layers(model)]
    failures = []
    try:
        for batch in _examples(model) if example is None else [example]:
            calls.clear()
            try:
                output = model(batch)
            except (RuntimeError, AssertionError, ValueError) as error:  # the wrong size for this model: try the next
                failures.append(f"{tuple(batch.shape)}: {str(error).splitlines()[0]}")
                continue
            if not isinstance(output, Tensor):
                raise ValueError(f"{type(model).__name__} returns {type(output).__name__}, not logits (B, K)")
            return batch, output, calls
    finally:
        for handle in handles:
            handle.remove()
    tried = "; ".join(failures)
    raise ValueError(f"{type(model).__name__} runs on none of the images tried ({tried}): pass example=, a batch")


def _head_name(model: nn.Module, output: Tensor, calls: Mapping[str, Tensor]) -> str:
    heads = [
        name
        for name, value in calls.items()
        if value is output or (value.shape == output.shape and value.data_ptr() == output.data_ptr())
    ]
    if len(heads) == 1:
        return heads[0]
    layers = [f"{name} ({layer.in_features} → {layer.out_features})" for name, layer in _linear_layers(model).items()]
    shown = ", ".join(layers[-5:]) if layers else "none: it has no linear layer"
    raise ValueError(
        f"cannot split {type(model).__name__}: its output {tuple(output.shape)} is not the output of one of its linear "
        f"layers; the last candidates are {shown}. Wrap the model so that a linear layer gives the logits."
    )


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and name}


def _examples(model: nn.Module) -> list[Tensor]:
    parameter = next(model.parameters(), torch.zeros(()))
    convolution = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    channels = (3, 1) if convolution is None else (convolution.in_channels,)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, depth, size, size) for depth in channels for size in (224, 32, 8)]
    return [torch.rand(shape, generator=generator).to(parameter.device, parameter.dtype) for shape in shapes]


def _without(model: nn.Module, name: str) -> nn.Module:
    """`model` with an identity in the place of layer `name`: only the modules on the way are copied, shallowly."""
    child, _, rest = name.partition(".")
    clone = copy.copy(model)
    clone._modules = dict(model._modules)
    forward = vars(model).get("forward")
    if (
        isinstance(forward, MethodType) and forward.__self__ is model
    ):  # put on this instance: it belongs to the clone now
        clone.forward = MethodType(forward.__func__, clone)
    layer = model._modules[child]
    assert layer is not None
    clone._modules[child] = _without(layer, rest) if rest else nn.Identity().train(layer.training)
    return clone
