import pytest
import torch

from regfast.models import read_checkpoint, save_checkpoint


def test_whole_or_absent(tmp_path, monkeypatch):
    save_checkpoint({"a": torch.arange(3.0)}, tmp_path / "deep" / "a.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("regfast.models.checkpoint.save_file", _break)
        with pytest.raises(OSError, match="disk"):
            save_checkpoint({"a": torch.zeros(3)}, tmp_path / "deep" / "a.safetensors")
    assert read_checkpoint(tmp_path / "deep" / "a.safetensors")["a"].tolist() == [0, 1, 2]


def _break(tensors, path):
    path.write_bytes(b"half")
    raise OSError("disk full")


def test_missing_and_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        read_checkpoint(tmp_path / "none.pt")
    for name in ("a.safetensors", "a.pt"):
        (tmp_path / name).write_bytes(b"not a checkpoint at all")
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read_checkpoint(tmp_path / name)
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.pt cannot be read"):
        read_checkpoint(tmp_path / "empty.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (pytest.fail, ("a checkpoint ran code",))

    torch.save({"a": Payload()}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(tmp_path / "a.pt")


def test_something_else_than_tensors(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="expected a state dict"):
        read_checkpoint(tmp_path / "a.pt")
