"""What decides the rows of a run, as a fingerprint: model weights, data, attacks, seed, precision and version."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regfast.evaluation.samples import Dataset, read_pixels, spread
from regfast.runs.errors import InputError
from regfast.runs.files import read_json
from regfast.runs.folder import check_same

__all__ = ["check_identity", "data_fingerprint", "fingerprint", "model_fingerprint", "read_identity"]

_PROBED = 64  # samples whose pixels are hashed at the start


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of a JSON-serializable description, 16 hexadecimal digits."""
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


def data_fingerprint(dataset: Dataset, picked: Sequence[int] | None = None) -> str:
    """Hash of a data set: its length, which samples are picked, and what is known without reading all of it.

    Tensors and arrays are hashed whole (`images`, `data`, `labels`, `targets`, `tensors`), files by folder, name and
    size (data sets with `samples`, as torchvision's ImageFolder has), both also inside subsets; and of every data set
    the pixels and labels of 64 of the picked samples, spread over them, as they are read.
    """
    picked = range(len(dataset)) if picked is None else picked
    digest = hashlib.sha256(f"{len(dataset)} {len(picked)}".encode())
    digest.update(np.asarray(picked, dtype=np.int64).tobytes())
    inner: Any = dataset
    while hasattr(inner, "indices") and (hasattr(inner, "whole") or hasattr(inner, "dataset")):
        digest.update(np.asarray(inner.indices, dtype=np.int64).tobytes())
        inner = inner.whole if hasattr(inner, "whole") else inner.dataset
    for name in ("images", "data", "labels", "targets"):
        _hash_array(digest, getattr(inner, name, None))
    for array in getattr(inner, "tensors", ()):
        _hash_array(digest, array)
    files = getattr(inner, "samples", None) or getattr(getattr(inner, "folder", None), "samples", None)
    if isinstance(files, Sequence) and files and isinstance(files[0], tuple) and isinstance(files[0][0], str | Path):
        for path, label in files:
            tail = os.fsencode("/".join(Path(path).parts[-2:]))
            size = Path(path).stat().st_size if Path(path).exists() else -1
            digest.update(tail + f" {label} {size}".encode())
    for pixels in read_pixels(dataset, spread(picked, _PROBED)).values():
        digest.update(pixels.encode())
    return digest.hexdigest()[:16]


def _hash_array(digest: Any, array: Any) -> None:
    if isinstance(array, list) and array and isinstance(array[0], int):
        array = np.asarray(array)
    if isinstance(array, Tensor | np.ndarray) and array.dtype != object:
        content = torch.as_tensor(array).detach().cpu().contiguous()
        digest.update(f"{content.dtype} {tuple(content.shape)}".encode())
        digest.update(content.reshape(-1).view(torch.uint8).numpy().data)


def check_identity(path: Path, identity: Mapping[str, Any]) -> None:
    """Compare `identity` with the one stored in `path` (run.json), if there is one.

    Raises:
        OtherRun: naming every entry that differs, with both values and what to do.
        InputError: naming a damaged file.
    """
    if path.exists():
        check_same(read_identity(path), json.loads(json.dumps(identity)), path.parent)


def read_identity(path: Path) -> dict[str, Any]:
    """What `path` (run.json) says the run is. Raises MissingInput, or InputError for a damaged file."""
    identity = read_json(path).get("identity")
    if not isinstance(identity, dict):
        raise InputError(f"{path} is damaged: it says nothing about the run")
    return identity
