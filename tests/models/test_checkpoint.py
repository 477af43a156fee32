import io
import os
import re

import numpy as np
import pytest
import torch

from regfast.models import load_model, read_checkpoint, save_checkpoint
from regfast.runs import RunStopped


def test_whole_or_absent(tmp_path, monkeypatch):
    save_checkpoint({"a": torch.arange(3.0)}, tmp_path / "deep" / "a.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", _break)
        with pytest.raises(RunStopped, match=r"a\.safetensors could not be written: disk full"):
            save_checkpoint({"a": torch.zeros(3)}, tmp_path / "deep" / "a.safetensors")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]
    assert read_checkpoint(tmp_path / "deep" / "a.safetensors")["a"].tolist() == [0, 1, 2]


def _break(descriptor):
    raise OSError("disk full")


def test_permissions_are_the_umasks(tmp_path):
    previous = os.umask(0o022)
    try:
        save_checkpoint({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    finally:
        os.umask(previous)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644


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


def _saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_mutated_files_cannot_be_read_or_hold_something_else(tmp_path):
    """Whatever the readers of a damaged file raise; the reason is there, and it names its kind."""
    state = {"a.weight": torch.rand(4, 3), "a.bias": torch.rand(4)}
    save_checkpoint(state, tmp_path / "good.safetensors")
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    files = {"safetensors": (tmp_path / "good.safetensors").read_bytes(), "pt": _saved(state), "pth": legacy.getvalue()}
    random = np.random.default_rng(0)
    refused = 0
    for suffix, whole in files.items():
        for number in range(60):
            data = bytearray(whole)
            for place in random.integers(len(data), size=1 + number % 8):
                data[place] = random.integers(256)
            if number % 3 == 0:
                data = data[: random.integers(len(data))]
            path = tmp_path / f"mutated.{suffix}"
            path.write_bytes(bytes(data))
            try:
                read_checkpoint(path)
            except ValueError as error:
                assert re.search(r"cannot be read: \w+|expected a state dict", str(error)), error
                refused += 1
    assert refused > 60


@pytest.mark.parametrize("content", [b"x", b"101", b"\x80\x02}q\x00.", b"PK\x03\x04", bytes(1000)])
def test_junk(tmp_path, content):
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"cannot be read: \w+|expected a state dict|no checkpoint"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(ValueError, match=r"a\.safetensors cannot be read: damaged, or written by neither"):
        read_checkpoint(tmp_path / "a.safetensors")


def test_only_dense_tensors(tmp_path):
    torch.save({"epoch": 3, "note": "x", "a": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds dict with epoch, note, expected a state dict"):
        read_checkpoint(tmp_path / "a.pt")
    for tensor, what in (
        (torch.eye(3).to_sparse(), "sparse_coo"),
        (torch.zeros(1).expand(10**6, 10**6), "expanded"),
        (torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8), "quantized"),
        (torch.zeros(3, device="meta"), "on meta"),
    ):
        torch.save({"head.weight": tensor}, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=f"cannot be read: head.weight is {what}, expected a dense tensor"):
            read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_heads_of_another_type_are_refused(tmp_path, dtype):
    state = load_model("resnet20").network_state()
    state["linear.weight"] = state["linear.weight"].to(dtype)
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"other type: linear.weight is {dtype}, the model has torch.float32"):
        load_model("resnet20", tmp_path / "a.pt")
    state["linear.weight"] = torch.zeros(10, 64, dtype=torch.float16)
    torch.save(state, tmp_path / "a.pt")
    assert load_model("resnet20", tmp_path / "a.pt").head.weight.dtype == torch.float32


def test_names_of_wrappers(tmp_path):
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        torch.save({f"{prefix}a.module.weight": torch.ones(2)}, tmp_path / "a.pt")
        assert list(read_checkpoint(tmp_path / "a.pt")) == ["a.module.weight"]


def test_whole_models_and_foreign_files_say_what_to_save(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"save model.state_dict\(\) \(Unsupported global: GLOBAL torch.nn.*Linear"):
        read_checkpoint(tmp_path / "a.pt")
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "b.npy").write_text("version https://git-lfs.github.com/spec/v1")
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match="no state dict of tensors alone") as caught:
            read_checkpoint(tmp_path / name)
        assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
