"""The result store: one Parquet part a finished chunk, and the checks that keep foreign or damaged parts out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

__all__ = ["SCHEMA", "DamagedPart", "ResultStore", "StoreFull"]

SCHEMA = pa.schema(
    [
        ("sample", pa.int64()),
        ("label", pa.int64()),
        ("attack", pa.string()),
        ("norm", pa.string()),
        ("eps", pa.float64()),
        ("status", pa.string()),
        ("clean_prediction", pa.int64()),
        ("prediction", pa.int64()),
        ("correct", pa.bool_()),
        ("success", pa.bool_()),
        ("robust", pa.bool_()),
        ("carried", pa.bool_()),
        ("stage", pa.string()),
        ("gradients", pa.int64()),
        ("queries", pa.int64()),
        ("distance", pa.float32()),
        ("loss", pa.float32()),
    ]
)
"""One row a sample, attack and eps. `status` is "ok" or why the sample could not be attacked; `carried`: broken at a
smaller eps of the same attack and not attacked again; `distance`: norm of the perturbation; `loss`: cross-entropy at
the returned image."""


class DamagedPart(RuntimeError):
    """A part of the run is truncated, corrupted, or of another configuration."""


class StoreFull(OSError):
    """A part could not be written; what was finished before is safe."""


class ResultStore:
    """Parts under `folder`, written beside and renamed, so that a part which exists is whole.

    Args:
        folder: the run's folder; parts go to `folder/parts`, adversarial images to `folder/images`.
        fingerprint: hash of everything that decides the rows (model, data, attacks, seed, version); parts carry it.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.parts = folder / "parts"
        self.images = folder / "images"
        self.fingerprint = fingerprint

    def prepare(self) -> None:
        """Make the folders, and remove what a killed writer left half-written."""
        for folder in (self.parts, self.images):
            folder.mkdir(parents=True, exist_ok=True)
            for left_over in folder.glob(".*.tmp"):
                left_over.unlink(missing_ok=True)

    def write(self, rows: pa.Table, facts: Mapping[str, Any], images: Mapping[str, Tensor] | None = None) -> Path:
        """Write one finished chunk and return its path.

        Args:
            rows: table with `SCHEMA`, at least one row.
            facts: what is true of the chunk but not of its rows (seconds, worker): kept in the part's metadata.
            images: adversarial images by name; written first, so that a part never lacks its images.

        Raises:
            StoreFull: if the file system refuses (no space, quota, permission); nothing half-written stays behind.
        """
        samples = rows["sample"].to_pylist()
        name = f"samples-{min(samples):09d}-{max(samples):09d}-{len(set(samples))}"
        metadata = {"regfast.fingerprint": self.fingerprint, **{f"regfast.{k}": str(v) for k, v in facts.items()}}
        table = rows.replace_schema_metadata(metadata)
        if images:
            content = safetensors_bytes({key: value.contiguous() for key, value in images.items()})
            self._write(self.images / f"{name}.safetensors", lambda file: file.write(content))
        part = self.parts / f"{name}.parquet"
        self._write(part, lambda file: pq.write_table(table, file, compression="zstd", write_page_checksum=True))
        return part

    def _write(self, path: Path, write: Any) -> None:
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                write(file)
                _sync(file)
            beside.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise StoreFull(error.errno, f"{path} could not be written: {error.strerror or error}") from error

    def read(self) -> pa.Table:
        """All rows of all parts, sorted by attack, norm, eps and sample.

        Raises:
            DamagedPart: if a part is truncated or corrupted, belongs to another configuration, or repeats a sample.
        """
        tables = [self._read_part(path) for path in self.part_paths()]
        if not tables:
            return SCHEMA.empty_table()
        keys = [("attack", "ascending"), ("norm", "ascending"), ("eps", "ascending"), ("sample", "ascending")]
        rows = pa.concat_tables(tables).sort_by(keys)
        distinct = rows.group_by([key for key, _ in keys]).aggregate([]).num_rows
        if distinct != rows.num_rows:
            raise DamagedPart(
                f"{self.parts} holds {rows.num_rows - distinct} rows twice: parts of two runs were put together. "
                "Remove the parts that do not belong here."
            )
        return rows

    def facts(self, name: str) -> list[str]:
        """The fact `name` of every part, in order of the parts' names."""
        key = f"regfast.{name}".encode()
        return [(pq.read_schema(path).metadata or {}).get(key, b"").decode() for path in self.part_paths()]

    def finished(self) -> set[int]:
        """Ids of the samples whose rows are stored."""
        return set(self.read()["sample"].to_pylist())

    def part_paths(self) -> list[Path]:
        """The parts, by name."""
        return sorted(self.parts.glob("samples-*.parquet"))

    def _read_part(self, path: Path) -> pa.Table:
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedPart(
                f"{path} is truncated or corrupted ({error}). Delete that one file and run the same command again: "
                "only its samples are computed anew."
            ) from error
        found = (table.schema.metadata or {}).get(b"regfast.fingerprint", b"").decode()
        if found != self.fingerprint:
            raise DamagedPart(
                f"{path} was made by another configuration (fingerprint {found or 'missing'}, this run has "
                f"{self.fingerprint}). Move it away, or give this run another folder."
            )
        if not table.schema.equals(SCHEMA):
            raise DamagedPart(f"{path} has other columns than this version writes: {table.schema.names}.")
        return table.replace_schema_metadata(None)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
