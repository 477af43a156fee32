import json

import numpy as np
import pytest
import torch
from torch import nn

from regfast import attacks
from regfast.compat.autoattack import AutoAttack
from regfast.models import load_model


def problem(count=24):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    images = torch.rand(count, 3, 4, 4)
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    return model, images, labels


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("version", ["standard", "rand", "plus"])
def test_the_stages_are_the_protocols(norm, version):
    model, *_ = problem()
    compat = AutoAttack(model, norm=norm, eps=0.1, version=version, verbose=False)
    own = attacks.AutoAttack(norm.lower(), 0.1, version).stages()
    ours = [dict(stage.options) for stage in compat._stages()]
    theirs = [dict(stage.options, norm=stage.norm) for stage in own]
    free = set() if norm == "L1" else {"larger_eps"}  # it means nothing there
    if norm == "L1" and version != "standard":  # the reference searches larger balls, and fewer targets, there alone
        free = {"larger_eps", "targets"}
    for options in (*ours, *theirs):
        for name in free & set(options):
            options.pop(name)
    assert [str(options) for options in ours] == [str(options) for options in theirs]


def test_standard_evaluation_gives_points_labels_and_the_references_lines(tmp_path, capsys):
    model, images, labels = problem()
    log = tmp_path / "log.txt"
    adversary = AutoAttack(model, eps=0.05, seed=3, version="custom", attacks_to_run=["apgd-ce", "fab-t"], log_path=log)
    adversary.apgd.n_restarts, adversary.apgd.n_iter, adversary.fab.n_target_classes = 1, 20, 2
    found, classes = adversary.run_standard_evaluation(images, labels, bs=7, return_labels=True)
    right = model(found).argmax(1) == labels
    assert torch.equal(model(found).argmax(1), classes)
    assert torch.equal(found[right], images[right]) and torch.equal(found[0], images[0])
    assert 0 < int(right.sum()) < 23 and float((found - images).abs().max()) <= 0.05 + 1e-6
    lines = log.read_text().splitlines()
    assert lines == capsys.readouterr().out.splitlines()
    robust = f"{float(right.double().mean()):.2%}"
    assert lines[:2] == ["using custom version including apgd-ce, fab-t.", f"initial accuracy: {23 / 24:.2%}"]
    assert lines[2].startswith("apgd-ce - ") and lines[2].endswith(" out of 23 successfully perturbed")
    assert lines[5].startswith(f"robust accuracy after FAB-T: {robust} (total time ")
    assert lines[6].startswith("max Linf perturbation: 0.0500") and lines[7] == f"robust accuracy: {robust}"
    assert adversary.clean_accuracy(images, labels, bs=5) == pytest.approx(23 / 24)


def test_individual_evaluation_tries_every_attack_on_all_images(capsys):
    model, images, labels = problem()
    adversary = AutoAttack(model, norm="L2", eps=0.3, version="custom", attacks_to_run=["apgd-ce", "square"])
    adversary.square.n_queries = 50
    found = adversary.run_standard_evaluation_individual(images, labels)
    assert list(found) == ["apgd-ce", "square"]
    accuracy = {name: (model(points).argmax(1) == labels).double().mean() for name, points in found.items()}
    assert accuracy["apgd-ce"] < accuracy["square"] < 1
    assert f"robust accuracy by SQUARE \t {float(accuracy['square']):.2%}" in capsys.readouterr().out
    both = adversary.run_standard_evaluation_individual(images, labels, return_labels=True)
    assert torch.equal(model(both["square"][0]).argmax(1), both["square"][1])


def test_the_references_robust_set(shared_data):
    reference = json.loads((shared_data / "reference_resnet20_linf_8of255.json").read_text())
    model = load_model("resnet20", checkpoint=shared_data / reference["model"]).eval()
    with np.load(shared_data / "cifar10_test2k.npz") as data:
        images, labels = data["images"][: reference["n"]], torch.from_numpy(data["labels"][: reference["n"]])
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
    adversary = AutoAttack(model, norm="Linf", eps=reference["eps"], version="standard", verbose=False)
    found = adversary.run_standard_evaluation(images, labels, bs=100)
    with torch.no_grad():
        robust = (model(found).argmax(1) == labels).nonzero().squeeze(1).tolist()
    assert robust == reference["robust"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"norm": "L0"}, "norm"),
        ({"version": "best"}, "version"),
        ({"attacks_to_run": ["square"]}, "custom"),
        ({"is_tf_model": True}, "PyTorch"),
        ({"eps": -1}, "eps"),
        ({"version": "custom", "attacks_to_run": ["apgd"]}, "attacks_to_run"),
        ({"version": "custom"}, "attacks_to_run"),
    ],
)
def test_mistaken_arguments_are_named(options, says):
    model, images, labels = problem()
    with pytest.raises(ValueError, match=says):
        AutoAttack(model, verbose=False, **options).run_standard_evaluation(images, labels)
    with pytest.raises(ValueError, match="state_path"):
        AutoAttack(model).run_standard_evaluation(images, labels, state_path="here")
