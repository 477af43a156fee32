import errno
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from regfast.evaluation.store import SCHEMA, DamagedPart, ResultStore
from regfast.runs.files import NotWritten


def rows(samples, eps=0.1):
    n = len(samples)
    columns = {
        "sample": samples,
        "label": [1] * n,
        "attack": ["pgd"] * n,
        "norm": ["linf"] * n,
        "eps": [eps] * n,
        "status": ["ok"] * n,
        "pixels": ["f0"] * n,
        "clean_prediction": [1] * n,
        "prediction": [0] * n,
        "correct": [True] * n,
        "success": [True] * n,
        "robust": [False] * n,
        "carried": [False] * n,
        "stage": ["pgd"] * n,
        "late": [False] * n,
        "gradients": [3] * n,
        "queries": [4] * n,
        "distance": [0.1] * n,
        "loss": [2.0] * n,
    }
    return pa.table(columns, schema=SCHEMA)


@pytest.fixture
def store(tmp_path):
    made = ResultStore(tmp_path, "abc")
    made.prepare()
    return made


def test_what_is_written_is_read_sorted(store):
    store.write(rows([7, 5]), {"seconds": 2})
    store.write(rows([1, 3]), {"seconds": 1}, {"pgd linf 0.1": torch.ones(2, 3, 4, 4)})
    assert store.read()["sample"].to_pylist() == [1, 3, 5, 7]
    assert store.finished() == dict.fromkeys([1, 3, 5, 7], "f0")
    assert sorted(store.facts("seconds")) == ["1", "2"]
    (images,) = (load_file(path) for path in store.images.glob("*.safetensors"))
    assert images["pgd linf 0.1"].shape == (2, 3, 4, 4)


def test_an_empty_store_reads_as_no_rows(store):
    assert store.read().num_rows == 0
    assert store.read().schema.equals(SCHEMA)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_part_is_named(store, damage):
    path = store.write(rows(list(range(200))), {})
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[40] ^= 0xFF
    path.write_bytes({"truncated": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    with pytest.raises(DamagedPart, match=rf"{path.name}.*truncated or corrupted.*Delete"):
        store.read()


def test_a_part_of_another_configuration_is_never_mixed_in(store, tmp_path):
    ResultStore(tmp_path, "other").write(rows([1]), {})
    store.write(rows([2]), {})
    with pytest.raises(DamagedPart, match=r"another configuration.*other.*abc"):
        store.read()


def test_a_sample_stored_twice_counts_once(store):
    """A worker that outlived its job stores what the next job has drawn again."""
    store.write(rows([1, 2]), {})
    store.write(rows([2, 3]), {})
    assert store.read()["sample"].to_pylist() == [1, 2, 3]
    assert set(store.finished()) == {1, 2, 3}


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_samples_that_lost_their_images_are_not_finished(store, damage):
    store.write(rows([1]), {})
    store.write(rows([2]), {}, {"pgd linf 0.1": torch.ones(1, 3, 4, 4)})
    (images,) = store.images.iterdir()
    images.write_bytes(images.read_bytes()[:-10]) if damage == "truncated" else images.unlink()
    assert set(store.finished()) == {1}
    store.prepare()
    assert store.read()["sample"].to_pylist() == [1]


def test_files_have_the_permissions_of_the_umask(store):
    previous = os.umask(0o027)
    try:
        part = store.write(rows([1]), {}, {"pgd linf 0.1": torch.ones(1, 3, 4, 4)})
    finally:
        os.umask(previous)
    (images,) = store.images.iterdir()
    assert part.stat().st_mode & 0o777 == images.stat().st_mode & 0o777 == 0o640


def test_a_part_with_other_columns_is_refused(store):
    table = rows([1]).drop_columns(["loss"]).replace_schema_metadata({"regfast.fingerprint": "abc"})
    pq.write_table(table, store.parts / "samples-1-1-1.parquet")
    with pytest.raises(DamagedPart, match="other columns"):
        store.read()


def test_a_full_disk_leaves_nothing_half_written(store, monkeypatch):
    store.write(rows([1]), {})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten, match="could not be written: No space left"):
        store.write(rows([2]), {})
    monkeypatch.undo()
    assert set(store.finished()) == {1}
    assert [path.name for path in store.parts.iterdir()] == [store.part_paths()[0].name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_the_real_error_of_a_full_device(store, monkeypatch):
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened("/dev/full", os.O_WRONLY))
    with pytest.raises(NotWritten, match="No space left"):
        store.write(rows([2]), {})


def test_left_overs_of_a_killed_writer_are_removed(store):
    left = store.parts / ".samples-1.parquet.123.tmp"
    left.write_bytes(b"half")
    store.prepare()
    assert not left.exists()
    assert store.read().num_rows == 0
