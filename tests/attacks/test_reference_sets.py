"""The robust sets of the reference AutoAttack on CIFAR-10 images and two ResNet-20s, sample by sample.

The reference's own draws depend on its batches, so single samples at the edge may differ: one in a hundred is allowed,
in the robust set and after every stage.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from regfast.attacks.apgd import APGD
from regfast.attacks.autoattack import AutoAttack
from regfast.models import load_model

FILES = (
    "reference_resnet20_linf_8of255.json",
    "reference_resnet20_linf_1of255.json",
    "reference_resnet20_linf_0.5of255.json",
    "reference_resnet20_l2_0.05.json",
    "reference_robust20_linf_4of255.json",
)


def case(folder: Path, file: str):
    """(reference, model, images, labels)."""
    reference = json.loads((folder / file).read_text())
    model = load_model("resnet20", checkpoint=folder / reference["model"])
    with np.load(folder / "cifar10_test2k.npz") as data:
        images, labels = data["images"][: reference["n"]], data["labels"][: reference["n"]]
    images = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
    return reference, model, images, torch.from_numpy(labels)


def indices(mask) -> set[int]:
    return set(mask.nonzero().squeeze(1).tolist())


def check_points(result, model, images, labels, norm: str, eps: float) -> None:
    """What is returned lies in ball and box, and the model is wrong exactly where success says so."""
    delta = (result.images - images).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert (length <= eps + 1e-6).all()
    assert ((result.images >= 0) & (result.images <= 1)).all()
    with torch.no_grad():
        wrong = torch.cat([model(part).argmax(1) for part in result.images.split(50)]) != labels
    assert torch.equal(result.success, wrong & result.clean)


@pytest.mark.parametrize("file", FILES)
def test_apgd_ce_breaks_what_the_reference_breaks(shared_data, file):
    reference, model, images, labels = case(shared_data, file)
    norm, eps, slack = reference["norm"].lower(), reference["eps"], math.ceil(reference["n"] / 100)
    result = APGD(norm, eps).run(model, images, labels)
    assert indices(result.clean) == set(reference["clean"])
    ours, theirs = indices(result.success), set(reference["apgd-ce"]["broken"])
    assert len(theirs - ours) <= slack, f"only the reference breaks {sorted(theirs - ours)}"
    assert len(ours - theirs) <= slack + 1, f"only regfast breaks {sorted(ours - theirs)}"
    check_points(result, model, images, labels, norm, eps)
    # The reference spends 101 evaluations on every sample that was right.
    assert result.gradients.sum() < reference["apgd-ce"]["grad"]


@pytest.mark.parametrize(
    "file",
    [FILES[0], *(pytest.param(file, marks=[pytest.mark.exhaustive, pytest.mark.timeout(900)]) for file in FILES[1:])],
)
def test_standard_leaves_the_robust_set_of_the_reference(shared_data, file):
    reference, model, images, labels = case(shared_data, file)
    norm, eps, slack = reference["norm"].lower(), reference["eps"], math.ceil(reference["n"] / 100)
    result = AutoAttack(norm, eps).run(model, images, labels)
    ours, theirs = indices(result.robust), set(reference["robust"])
    assert abs(len(ours) - len(theirs)) <= slack
    assert len(ours ^ theirs) <= slack + 1, (
        f"robust only here {sorted(ours - theirs)}, only there {sorted(theirs - ours)}"
    )
    broken, expected = 0, 0
    for stage in ("apgd-ce", "apgd-t", "fab-t", "square"):
        broken += result.stage.count(stage)
        expected += len(reference.get(stage, {"broken": []})["broken"])
        assert broken >= expected - slack, f"weaker than the reference up to {stage}"
    check_points(result, model, images, labels, norm, eps)
    stages = [reference[stage] for stage in ("apgd-ce", "apgd-t", "fab-t", "square") if stage in reference]
    spent = sum(stage["fwd"] + stage["grad"] for stage in stages)
    assert result.gradients.sum() + result.queries.sum() < spent
