"""The folder of a run: what kind of run it holds, whether it is the same one, and that one job at a time writes to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regfast.runs.errors import InputError, OtherRun, RunStopped
from regfast.runs.files import NotWritten, make_folder, read_json

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of file systems that know none


def check_kind(folder: Path, kind: str) -> None:
    """`kind` is evaluation, study or paper.

    Raises:
        OtherRun: if `folder` holds a run of another kind.
        InputError: if it is no folder, or says in a damaged file what it holds.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; expected a folder for the run")
    except OSError as error:
        raise InputError(f"{folder} cannot be a folder: {error.strerror}") from error
    found = None
    if (folder / "run.json").is_file():
        found = "evaluation"
    elif (folder / "config.json").is_file():
        found = str(read_json(folder / "config.json").get("kind", "study"))
    if found not in (None, kind):
        raise OtherRun(f"{folder} holds a run of another kind ({found}, not {kind}); choose another folder")


def inside(folder: Path, name: str) -> Path:
    """`folder / name`. Raises InputError where that lies, by its name or through a link, outside `folder`."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} leads out of {folder}: nothing is read or written there")
    return path


def check_same(stored: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raise OtherRun, naming every entry that differs with both values, unless `stored` says what `wanted` says."""
    different = differences(stored, wanted)
    if different:
        raise OtherRun(
            f"{folder} holds a run of another configuration ({'; '.join(different)}). Choose another folder (--out), "
            "or repeat the options of that run to go on with it."
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configurations: "recipe.epochs: 40 there, 20 here"."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, now = _by_id(old.get(key)), _by_id(new.get(key))
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key}: {_short(before)} there, {_short(now)} here")
    return found


def _by_id(value: Any) -> Any:
    """A list of mappings that have an id, by that id; anything else as it is."""
    if isinstance(value, Sequence) and value and all(isinstance(item, Mapping) and "id" in item for item in value):
        return {item["id"]: item for item in value}
    return value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else text[:159] + "…"


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold the file `lock` against a second job, and remove it at the end.

    The lock goes with the process, however that ends; a file that a killed job left holds nobody up.

    Raises:
        RunStopped: if another job holds it.
        NotWritten: if it cannot be made.
    """
    make_folder(lock.parent)
    descriptor = _lock(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise NotWritten(f"{path.parent} cannot be written: {error.strerror or error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise RunStopped(f"another job is writing to {path.parent}; wait for it or choose another") from error
            warnings.warn(f"{path.parent} has no file locks: nothing keeps a second job out of it", stacklevel=2)
            return descriptor
        # The one who held it may have removed the file between our two calls.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
