"""What decides the rows of a run, as a fingerprint: model weights, data, attacks, seed, precision and version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regfast.evaluation.samples import Dataset

__all__ = ["OtherRun", "check_identity", "data_fingerprint", "fingerprint", "model_fingerprint"]

_PROBED = 8  # images hashed of a data set that names no files


class OtherRun(RuntimeError):
    """The folder holds a run of another configuration."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of a JSON-serialisable description, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def model_fingerprint(model: Callable[[Tensor], Tensor]) -> str:
    """Hash of the model's class, and of every parameter and buffer by name, dtype, shape and value.

    A plain callable has nothing to hash but its qualified name: two closures over different weights look the same.
    """
    digest = hashlib.sha256()
    if isinstance(model, nn.Module):
        digest.update(type(model).__qualname__.encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(
            f"{getattr(model, '__module__', '')}.{getattr(model, '__qualname__', repr(type(model)))}".encode()
        )
    return digest.hexdigest()[:16]


def data_fingerprint(dataset: Dataset, picked: Sequence[int]) -> str:
    """Hash of a data set: its length, which samples are picked, and what can be known without reading all of it.

    Files are hashed by folder, name and size (data sets with `samples`, as torchvision's ImageFolder has); tensors and
    arrays by content (`images` and `labels`, or `tensors`); anything else by its first samples.
    """
    digest = hashlib.sha256(f"{len(dataset)} {len(picked)}".encode())
    digest.update(np.asarray(picked, dtype=np.int64).tobytes())
    files = getattr(dataset, "samples", None) or getattr(getattr(dataset, "folder", None), "samples", None)
    arrays = [getattr(dataset, name) for name in ("images", "labels") if hasattr(dataset, name)]
    arrays = arrays or list(getattr(dataset, "tensors", []))
    if isinstance(files, Sequence) and files and isinstance(files[0], tuple) and isinstance(files[0][0], str | Path):
        for path, label in files:
            tail = "/".join(Path(path).parts[-2:])
            digest.update(f"{tail} {label} {Path(path).stat().st_size if Path(path).exists() else -1}".encode())
    elif arrays and all(isinstance(array, Tensor | np.ndarray) for array in arrays):
        for array in arrays:
            content = torch.as_tensor(array).detach().cpu().contiguous()
            digest.update(f"{content.dtype} {tuple(content.shape)}".encode())
            digest.update(content.reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        for index in picked[:_PROBED]:
            image, label = dataset[index]
            digest.update(np.ascontiguousarray(torch.as_tensor(np.asarray(image)).cpu().numpy()).tobytes())
            digest.update(str(int(label)).encode())
    return digest.hexdigest()[:16]


def check_identity(path: Path, identity: Mapping[str, Any]) -> None:
    """Compare `identity` with the one stored in `path` (run.json), if there is one.

    Raises:
        OtherRun: naming every entry that differs, with both values and what to do.
    """
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["identity"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise OtherRun(f"{path} cannot be read ({error}). Choose another folder, or remove this one.") from error
    wanted = json.loads(json.dumps(identity))
    differing = [key for key in sorted({*stored, *wanted}) if stored.get(key) != wanted.get(key)]
    if differing:
        lines = [f"  {key}: {_short(stored.get(key))} there, {_short(wanted.get(key))} here" for key in differing]
        raise OtherRun(
            f"{path.parent} holds a run of another configuration:\n"
            + "\n".join(lines)
            + "\nGive this run another folder (--out), or repeat the options of that run to resume it."
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}…"
