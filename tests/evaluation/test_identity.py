import json
import os

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from regfast.data import load_images
from regfast.evaluation.identity import check_identity, data_fingerprint, fingerprint, model_fingerprint
from regfast.runs import InputError, OtherRun


def test_a_weight_changes_the_models_fingerprint():
    model = nn.Linear(3, 2)
    before = model_fingerprint(model)
    assert before == model_fingerprint(model)
    with torch.no_grad():
        model.weight[0, 0] += 1e-6
    assert model_fingerprint(model) != before


def test_bfloat16_and_integer_buffers_are_hashed():
    model = nn.BatchNorm2d(2).to(torch.bfloat16)
    before = model_fingerprint(model)
    model.num_batches_tracked += 1
    assert model_fingerprint(model) != before


def test_a_pixel_a_label_and_the_picked_samples_change_the_datas_fingerprint():
    images, labels = torch.rand(5, 3, 2, 2), torch.arange(5)
    data = TensorDataset(images, labels)
    before = data_fingerprint(data, range(5))
    assert before == data_fingerprint(TensorDataset(images.clone(), labels.clone()), range(5))
    assert data_fingerprint(data, range(4)) != before
    images[4, 0, 0, 0] += 0.1
    assert data_fingerprint(data, range(5)) != before


def test_pixels_count_where_the_set_shows_no_arrays():
    clean, noisy = load_images("digits"), load_images("noisy-digits")  # subsets, with the same labels
    assert data_fingerprint(clean) != data_fingerprint(noisy)
    assert data_fingerprint(noisy) == data_fingerprint(load_images("noisy-digits"))

    class Own:
        def __init__(self, shade):
            self.shade = shade

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            if index % 2:
                raise OSError("unreadable")
            return torch.full((1, 2, 2), self.shade), 3

    assert data_fingerprint(Own(0.5)) == data_fingerprint(Own(0.5)) != data_fingerprint(Own(0.25))


def test_file_names_need_not_be_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    kind = type("Files", (), {"samples": [(name, 0)], "__len__": lambda self: 1, "__getitem__": None})
    assert len(data_fingerprint(kind())) == 16


def test_another_configuration_is_named_entry_by_entry(tmp_path):
    path = tmp_path / "run.json"
    identity = {"seed": 0, "attacks": ["pgd"], "model": "a"}
    check_identity(path, identity)
    path.write_text(json.dumps({"identity": identity}))
    check_identity(path, identity)
    with pytest.raises(OtherRun, match=r"seed: 0 there, 1 here; model: \"a\" there, \"b\" here"):
        check_identity(path, {**identity, "seed": 1, "model": "b"})


def test_an_unreadable_run_file_is_an_error(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        check_identity(tmp_path / "run.json", {})
    (tmp_path / "run.json").write_text('{"identity": 3}')
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        check_identity(tmp_path / "run.json", {})


def test_fingerprints_do_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
