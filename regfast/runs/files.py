"""Writing files whole or not at all, and reading them back."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from regfast.runs.errors import InputError, MissingInput, RunStopped

Array = NDArray[Any]

_UNFINISHED: set[Path] = set()  # files of this process that have not yet taken their place


class NotWritten(RunStopped):
    """The file system refused (no space, quota, permission, a name too long); nothing half-written stays."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `path` at the end: a reader sees the old one or the new one, never half.

    It lies beside `path` until then. A symlink at `path` is replaced, not followed; permissions are the umask's.

    Raises:
        NotWritten: if the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _UNFINISHED.add(beside)
    try:
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise NotWritten(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        _UNFINISHED.discard(beside)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents where they are missing. Raises NotWritten."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritten(f"{folder} cannot be made: {error.strerror or error}") from error


def remove_unfinished(*folders: Path) -> None:
    """Remove what killed writers left in `folders`; nobody else may be writing there."""
    for folder in folders:
        for left_over in folder.glob(".*.tmp"):
            if left_over.is_dir() and not left_over.is_symlink():
                shutil.rmtree(left_over)
            else:
                left_over.unlink(missing_ok=True)


def remove_beside(path: Path) -> None:
    """Remove what killed writers of `path` left beside it; nobody else may be writing it."""
    for left_over in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        left_over.unlink(missing_ok=True)


def leave_now(reason: str) -> NoReturn:
    """End this process at once, from any thread, with status 1 and without half-written files."""
    print(f"regfast: {reason}", file=sys.stderr, flush=True)
    for path in list(_UNFINISHED):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    os._exit(1)


REMEDY = ". Remove it: the same command makes it again"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path, remedy: str = "") -> dict[str, Any]:
    """A JSON object. Raises MissingInput, or InputError that names a damaged file and says the `remedy`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingInput(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error}{remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: it holds no JSON object{remedy}")
    return content


def write_table(path: Path, columns: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write Parquet, from columns or from rows."""
    table = pa.table(dict(columns)) if isinstance(columns, Mapping) else pa.Table.from_pylist(list(columns))
    with replacing(path) as file:
        pq.write_table(table, file)


def read_columns(path: Path) -> dict[str, Array]:
    """The columns of a Parquet file. Raises MissingInput, or InputError that names a damaged file."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise MissingInput(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    return {name: table.column(name).to_numpy() for name in table.column_names}


def write_joined(path: Path, parts: Sequence[Path]) -> None:
    """Write Parquet: the rows of `parts`, which have the same columns, one after the other."""
    write_table(path, read_joined(parts))


def read_joined(parts: Sequence[Path]) -> dict[str, Array]:
    """The columns of Parquet files that have the same ones, one after the other; raises as `read_columns`."""
    tables = [read_columns(part) for part in parts]
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write `.npz`."""
    with replacing(path) as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # its stub forgets that names are free


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, Array]:
    """The arrays of an `.npz` file, or those called `names`. Raises MissingInput, or InputError that names a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in (arrays.files if names is None else names)}
    except FileNotFoundError as error:
        raise MissingInput(f"{path} is missing") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged: {error}") from error
