"""Checkpoints: read without running code (safetensors, or a weights-only state dict), compared by name and shape."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_SHOWN = 4


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a `.safetensors` file or a PyTorch state dict (weights only).

    Raises FileNotFoundError, or ValueError when the file is damaged or holds something other than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"checkpoint {path} cannot be read: {reason}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"checkpoint {path} holds {type(content).__name__}, expected a state dict of tensors by name")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def mismatch(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """What keeps `state` from fitting a model whose state is `own` (names missing, left over, other shapes), or ""."""
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    return "; ".join(
        f"{what}: {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
        for what, names in (("missing", missing), ("not in the model", unexpected), ("other shape", shapes))
        if names
    )


def save_checkpoint(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write `state` as safetensors under a temporary name, then rename: the file is whole or absent."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
    temporary.replace(path)
