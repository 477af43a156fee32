"""Writing result files whole or not at all, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Array = NDArray[Any]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError that names a damaged file."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    return content


def write_table(path: Path, columns: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write Parquet, from columns or from rows, under a temporary name, then rename."""
    table = pa.table(dict(columns)) if isinstance(columns, Mapping) else pa.Table.from_pylist(list(columns))
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def read_columns(path: Path) -> dict[str, Array]:
    """The columns of a Parquet file. Raises ValueError that names a damaged file."""
    try:
        table = pq.read_table(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return {name: table.column(name).to_numpy() for name in table.column_names}


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write `.npz` under a temporary name, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]  # its stub forgets that names are free
    temporary.replace(path)


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an `.npz` file. Raises ValueError that names a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
