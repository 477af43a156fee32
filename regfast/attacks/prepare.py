"""The model an attack searches with: a faster copy that says the same as the model it was given.

Attacks need input gradients of a fixed network, so everything that only training needs can go: the copy is in eval
mode, its parameters are frozen, batch-norm is folded into the convolution or linear layer before it, and convolutions
run channels last. The user's model is never changed; successes are confirmed with it as it was given.
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Tracer

from regfast.attacks.classifier import Model, logits_of

# One attack at a time on one model: its flags change while it runs.
_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKING = threading.Lock()

_FOLDABLE = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}


@contextmanager
def frozen(model: Model, training: bool = False) -> Iterator[Model]:
    """Hold `model` in eval mode with frozen parameters, and leave every flag as it was.

    Other threads wait until it is given back.

    Args:
        model: any callable from images to logits; one that is no `nn.Module` passes through.
        training: in train mode instead; where the model is in it, its parts stay as they are.
    """
    if not isinstance(model, nn.Module):
        yield model
        return
    with _LOCKING:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock:
        modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
        flags = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            if not (model.training if training else not training_parts(model)):
                model.train(training)
            for parameter in flags:
                parameter.requires_grad_(False)
            yield model
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter in flags:
                parameter.requires_grad_(True)


def training_parts(model: nn.Module) -> list[nn.Module]:
    """Modules in train mode; of exported programs, which have no modes (and a `train` that raises), none."""
    if "train" in vars(model):
        return []
    return [module for module in model.modules() if getattr(module, "training", False)]


def prepare(
    model: Model,
    example: Tensor,
    *,
    precision: str = "float32",
    channels_last: bool = True,
    compile: bool = False,  # noqa: A002 (the name torch users know)
) -> Model:
    """A copy of `model` that is faster to attack and gives the same logits and input gradients.

    Args:
        model: an `nn.Module`, or any callable from images (B, C, H, W) to logits (B, K); a callable that is no module
            can't be looked into and is only wrapped (precision, compile).
        example: a few images (n, C, H, W) on the model's device. The copy is used only if it repeats the model's logits
            on them to 1e-4 of their largest entry: a model that depends on more than its input is left as it is.
        precision: "float32" computes as the model does; "bf16" runs under bfloat16 autocast, with the weights of
            convolutions and linear layers rounded once.
        channels_last: run 4-dimensional images and weights in channels-last memory format.
        compile: pass the result through `torch.compile`.

    Returns:
        A callable from images to logits, differentiable in its input; bf16 logits come back as float32. It is `model`
        itself where nothing could be gained; the caller holds its flags with `frozen`.

    Raises:
        ValueError: for an unknown `precision`.
    """
    if precision not in ("float32", "bf16"):
        raise ValueError(f"precision must be 'float32' or 'bf16', got {precision!r}")
    network, last = _faster(model, example, channels_last and example.ndim == 4)
    if precision == "bf16" and network is not model:
        _round_weights(network)
    if compile:
        network = torch.compile(network)
    if network is model and precision == "float32":
        return model
    device_type = example.device.type

    def ask(images: Tensor) -> Tensor:
        if last:
            images = images.contiguous(memory_format=torch.channels_last)
        if precision == "float32":
            return network(images)
        with torch.autocast(device_type, dtype=torch.bfloat16):
            return logits_of(network(images)).float()

    return ask


def fold_batch_norm(model: nn.Module) -> int:
    """Fold every batch-norm of `model` (in eval mode) into the layer before it, in place; returns how many were folded.

    torch.fx only says *where* a convolution or linear layer feeds one batch-norm and nothing else; the model keeps its
    own forward pass, in which the batch-norm has become an identity. A part that can't be traced is stepped over.
    """
    pairs = foldable(model)
    for layer, norm, owner, name in pairs:
        weight, bias = folded_weights(layer, norm)
        layer.weight, layer.bias = (nn.Parameter(t, requires_grad=False) for t in (weight, bias))
        setattr(owner, name, nn.Identity())
    return len(pairs)


def foldable(model: nn.Module) -> list[tuple[Any, Any, nn.Module, str]]:
    """(layer, batch norm, the norm's owner, its name there) of all that `fold_batch_norm` folds."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return []
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    shared = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    found: dict[nn.Module, tuple[Any, Any, nn.Module, str]] = {}  # by the norm: a pair may be met twice
    for parent, layer_name, norm_name in _pairs(model, set()):
        layer, norm = parent.get_submodule(layer_name), parent.get_submodule(norm_name)
        alone = uses[id(layer)] == 1 and uses[id(norm)] == 1 and all(shared[id(p)] == 1 for p in layer.parameters())
        if alone and _foldable(layer, norm):
            owner, _, name = norm_name.rpartition(".")
            found[norm] = layer, norm, parent.get_submodule(owner), name
    return list(found.values())


@torch.no_grad()
def folded_weights(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias that scale and shift as `norm` would the layer's output.

    In float64, so that only the last rounding differs.
    """
    weight, mean = layer.weight.double(), norm.running_mean.double()
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    bias = -mean if layer.bias is None else layer.bias.double() - mean
    if norm.affine:
        scale = scale * norm.weight.double()
    bias = bias * scale if norm.bias is None else bias * scale + norm.bias.double()
    weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
    return weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)


def _faster(model: Model, example: Tensor, channels_last: bool) -> tuple[Model, bool]:
    """The fastest copy that gives the model's logits on `example`, else the model; whether it runs channels last."""
    if not isinstance(model, nn.Module):
        return model, False
    with frozen(model), torch.no_grad():
        expected = logits_of(model(example.clone()))
        for last in (True, False) if channels_last else (False,):
            try:
                faster = copy.deepcopy(model)
                fold_batch_norm(faster)
                if last:
                    faster = faster.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                layout = torch.channels_last if last else torch.contiguous_format
                logits = logits_of(faster(example.clone(memory_format=layout)))
            except Exception:  # can't be copied (locks, handles), or views its input in one layout only
                continue
            tolerance = 1e-4 * float(expected.nan_to_num().abs().amax())
            if torch.allclose(logits, expected, rtol=0.0, atol=tolerance, equal_nan=True):
                return faster, last
    return model, False


class _Tracer(Tracer):
    """Symbolic tracing that takes modules known to be untraceable as they are."""

    def __init__(self, opaque: set[nn.Module]):
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.opaque or super().is_leaf_module(m, module_qualified_name)


def _pairs(model: nn.Module, opaque: set[nn.Module]) -> list[tuple[nn.Module, str, str]]:
    """(module, layer name, batch-norm name) where the layer's output goes to that norm alone, each called once."""
    try:
        return _pairs_in(model, _Tracer(opaque).trace(model))
    except Exception:  # data-dependent control flow and the like: look at the parts, then at the whole around them
        found = [pair for child in model.children() for pair in _pairs(child, opaque)]
    try:
        return found + _pairs_in(model, _Tracer(opaque).trace(model))
    except Exception:
        opaque.add(model)
        return found


def _pairs_in(model: nn.Module, graph: Graph) -> list[tuple[nn.Module, str, str]]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    found = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and len(node.args) == 1 else None
        if not isinstance(source, Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        if calls[node.target] == calls[source.target] == 1:
            found.append((model, str(source.target), str(node.target)))
    return found


def _foldable(layer: nn.Module, norm: nn.Module) -> bool:
    """Exactly a layer and its batch-norm: no subclass, hook or forward of its own, and running statistics."""
    if _FOLDABLE.get(type(layer)) is not type(norm) or norm.training or norm.running_var is None:
        return False
    if type(layer.weight) is not nn.Parameter or any("forward" in m.__dict__ for m in (layer, norm)):
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in (layer, norm))


@torch.no_grad()
def _round_weights(model: Model) -> None:
    """Hold the weights that autocast would round at every call in bfloat16 once."""
    assert isinstance(model, nn.Module)
    for module in model.modules():
        if type(module) in _FOLDABLE:
            module.to(torch.bfloat16)
