"""The result store: one Parquet part a finished chunk, and the checks that keep foreign or damaged parts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from regfast.runs.errors import InputError
from regfast.runs.files import make_folder, remove_unfinished, replacing

__all__ = ["SCHEMA", "DamagedPart", "ResultStore"]

SCHEMA = pa.schema(
    [
        ("sample", pa.int64()),
        ("label", pa.int64()),
        ("attack", pa.string()),
        ("norm", pa.string()),
        ("eps", pa.float64()),
        ("status", pa.string()),
        ("pixels", pa.string()),
        ("clean_prediction", pa.int64()),
        ("prediction", pa.int64()),
        ("correct", pa.bool_()),
        ("success", pa.bool_()),
        ("robust", pa.bool_()),
        ("carried", pa.bool_()),
        ("stage", pa.string()),
        ("late", pa.bool_()),
        ("gradients", pa.int64()),
        ("queries", pa.int64()),
        ("distance", pa.float32()),
        ("loss", pa.float32()),
    ]
)
"""One row a sample, attack and eps. `status` is "ok" or why the sample could not be attacked; `carried`: broken at a
smaller eps of the same attack and not attacked again; `late`: broken in the second half of an ensemble's last stages;
`distance`: norm of the perturbation; `loss`: cross-entropy at the returned image; `pixels`: hash of the clean image and
its label, "" where it could not be attacked."""


class DamagedPart(InputError):
    """A part of the run is truncated, corrupted, or of another configuration."""


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
        """Make the folders, and remove what a killed writer left half-written and parts that have lost their images."""
        make_folder(self.parts)
        make_folder(self.images)
        remove_unfinished(self.folder, self.parts, self.images)
        for path in self.part_paths():
            if not self._has_images(path):
                path.unlink()

    def write(self, rows: pa.Table, facts: Mapping[str, Any], images: Mapping[str, Tensor] | None = None) -> Path:
        """Write one finished chunk and return its path.

        Args:
            rows: table with `SCHEMA`, at least one row.
            facts: what is true of the chunk but not of its rows (seconds, worker): kept in the part's metadata.
            images: adversarial images by name; written first, so that a part never lacks its images.

        Raises:
            NotWritten: if the file system refuses (no space, quota, permission); nothing half-written stays behind.
        """
        samples = rows["sample"].to_pylist()
        name = f"samples-{min(samples):09d}-{max(samples):09d}-{len(set(samples))}"
        known = {"fingerprint": self.fingerprint, "images": len(images or ()), **facts}
        table = rows.replace_schema_metadata({f"regfast.{key}": str(value) for key, value in known.items()})
        if images:
            content = safetensors_bytes({key: value.contiguous() for key, value in images.items()})
            with replacing(self.images / f"{name}.safetensors") as file:
                file.write(content)
        part = self.parts / f"{name}.parquet"
        with replacing(part) as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        return part

    def read(self, parts: Sequence[Path] | None = None) -> pa.Table:
        """All rows of all parts (or `parts`), sorted by attack, norm, eps and sample, each once.

        A sample can be in two parts: a worker that outlived its job stored it after the next job had drawn it again.
        Both were computed from the same inputs; the rows of the first part (by name) stay.

        Raises:
            DamagedPart: if a part is truncated or corrupted, or belongs to another configuration.
        """
        tables, known = [], pa.array([], pa.int64())
        for path in self.part_paths() if parts is None else parts:
            table = self._read_part(path)
            table = table.filter(pc.invert(pc.is_in(table["sample"], known)))
            known = pa.concat_arrays([known, pc.unique(table["sample"])])
            tables.append(table)
        if not tables:
            return SCHEMA.empty_table()
        keys = [("attack", "ascending"), ("norm", "ascending"), ("eps", "ascending"), ("sample", "ascending")]
        return pa.concat_tables(tables).sort_by(keys)

    def facts(self, name: str) -> list[str]:
        """The fact `name` of every part, in order of the parts' names."""
        return [self._fact(path, name) for path in self.part_paths()]

    def _fact(self, part: Path, name: str) -> str:
        return (self._opened(part, pq.read_schema).metadata or {}).get(f"regfast.{name}".encode(), b"").decode()

    def finished(self) -> dict[int, str]:
        """Id to hash of the pixels (`SCHEMA`) of the samples that are stored, their images too where they belong."""
        rows = self.read([path for path in self.part_paths() if self._has_images(path)])
        return dict(zip(rows["sample"].to_pylist(), rows["pixels"].to_pylist(), strict=True))

    def _has_images(self, part: Path) -> bool:
        """Whether the images that belong to `part` are there and whole."""
        if self._fact(part, "images") in ("", "0"):
            return True
        try:
            with safe_open(self.images / f"{part.stem}.safetensors", "pt"):
                return True
        except (OSError, SafetensorError):
            return False

    def part_paths(self) -> list[Path]:
        """The parts, by name."""
        return sorted(self.parts.glob("samples-*.parquet"))

    def _read_part(self, path: Path) -> pa.Table:
        table = self._opened(path, lambda part: pq.read_table(part, page_checksum_verification=True))
        found = (table.schema.metadata or {}).get(b"regfast.fingerprint", b"").decode()
        if found != self.fingerprint:
            raise DamagedPart(
                f"{path} was made by another configuration (fingerprint {found or 'missing'}, this run has "
                f"{self.fingerprint}). Move it away, or give this run another folder."
            )
        if not table.schema.equals(SCHEMA):
            raise DamagedPart(f"{path} has other columns than this version writes: {table.schema.names}.")
        return table.replace_schema_metadata(None)

    def _opened(self, path: Path, read: Callable[[Path], Any]) -> Any:
        try:
            return read(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedPart(
                f"{path} is truncated or corrupted ({error}). Delete that one file and run the same command again: "
                "only its samples are computed anew."
            ) from error
