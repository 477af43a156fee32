"""Checkpoints: read without running code (safetensors, or a weights-only state dict), compared by name and shape."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from regfast.runs.files import make_folder, replacing

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.)+")  # of DataParallel, DistributedDataParallel and torch.compile
_SHOWN = 4


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a `.safetensors` file or a PyTorch state dict (weights only).

    Prefixes of wrappers (`module.`, `_orig_mod.`) are taken off the names.

    Raises FileNotFoundError, or ValueError when the file is damaged or holds something other than dense tensors.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"checkpoint must be a path, got {path!r}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _load_weights(path)
    except Exception as error:  # a damaged file can make the readers raise anything
        raise ValueError(f"checkpoint {path} cannot be read: {_reason(error)}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        held = type(content).__name__
        if isinstance(content, Mapping):
            held += f" with {_some([str(name) for name, value in content.items() if not isinstance(value, Tensor)])}"
        raise ValueError(f"checkpoint {path} holds {held}, expected a state dict of tensors by name")
    for name, value in content.items():
        problem = _not_dense(value)
        if problem:
            raise ValueError(f"checkpoint {path} cannot be read: {name} is {problem}, expected a dense tensor")
    return {_PREFIXES.sub("", str(name)): value for name, value in content.items()}


def _reason(error: Exception) -> str:
    text = str(error)
    detail = re.search(r"WeightsUnpickler error: ([^\n]*)", text)
    if detail:  # torch's own words advise to run whatever the file holds
        why = detail[1].strip().rstrip(".")
        return "no state dict of tensors alone, save model.state_dict()" + (f" ({why})" if why else "")
    if isinstance(error, OSError):
        return error.strerror or text
    said = ": ".join([type(error).__name__, *text.splitlines()[:1]])
    return f"damaged, or written by neither safetensors nor torch.save ({said})"


def _load_weights(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _not_dense(tensor: Tensor) -> str:
    """What keeps its entries from being just what the file holds, or ""."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
    if tensor.device.type != "cpu":
        return f"on {tensor.device}"
    # A view that repeats entries of its storage claims a size that is not in the file.
    return "expanded" if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes() else ""


def mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What keeps `state` from fitting a model whose state is `own` (names, shapes, types), or ""."""
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    types = [
        f"{name} is {state[name].dtype}, the model has {own[name].dtype}"
        for name in own
        if name in state and state[name].is_floating_point() != own[name].is_floating_point()
    ]
    return "; ".join(
        f"{what}: {_some(names)}"
        for what, names in (
            ("missing", missing),
            ("not in the model", unexpected),
            ("other shape", shapes),
            ("other type", types),
        )
        if names
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def save_checkpoint(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write `state` as safetensors; the file is whole or absent. Raises NotWritten."""
    path = Path(path)
    make_folder(path.parent)
    with replacing(path) as file:
        file.write(save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))
