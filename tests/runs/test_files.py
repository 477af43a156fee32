import errno
import os

import pytest

from regfast.runs import InputError
from regfast.runs.errors import MissingInput
from regfast.runs.files import NotWritten, read_arrays, read_columns, read_json, remove_unfinished, replacing, write_text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half of the ne")
        raise KeyError
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Disk quota exceeded")))
        with pytest.raises(NotWritten, match=r"a\.txt could not be written: Disk quota exceeded"):
            write_text(path, "new")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_symlinks_are_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "run" / "a.txt"
    victim.write_text("mine")
    path.parent.mkdir()
    path.symlink_to(victim)
    (path.parent / f".a.txt.{os.getpid()}.tmp").symlink_to(victim)  # the name that will be written first
    write_text(path, "new")
    assert victim.read_text() == "mine" and path.read_text() == "new" and not path.is_symlink()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path, umask, mode):
    previous = os.umask(umask)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(previous)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("path", ["no/such/folder/a", "x" * 300, "file/a"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match=path[:20]):
        write_text(tmp_path / path, "")


def test_left_overs_are_removed_and_what_they_point_to_is_not(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("")
    run = tmp_path / "run"
    (run / ".piece.tmp").mkdir(parents=True)
    (run / ".a.1.tmp").write_text("half")
    (run / ".link.tmp").symlink_to(tmp_path / "outside")
    remove_unfinished(run)
    assert not list(run.iterdir()) and (tmp_path / "outside" / "kept").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": ' + b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is damaged: .*\. Remove it"):
        read_json(tmp_path / "a.json", ". Remove it")


@pytest.mark.parametrize("read", [read_json, read_columns, read_arrays])
def test_missing_and_damaged_files_are_named(tmp_path, read):
    with pytest.raises(MissingInput, match=r"none is missing"):
        read(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(InputError, match="bad is damaged"):
        read(tmp_path / "bad")
