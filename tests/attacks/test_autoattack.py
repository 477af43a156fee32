"""AutoAttack: which stages, in which order, on which samples."""

import warnings

import pytest
import torch

from regfast.attacks import APGD, FAB, AutoAttack, Square
from regfast.attacks.checks import RandomizedOutputWarning
from tests.attacks.problems import curved, linear


def stages(norm: str, version: str) -> list[str]:
    return [stage.name for stage in AutoAttack(norm, 0.1, version).stages()]


def test_versions_are_the_references():
    for norm in ("linf", "l2", "l1"):
        assert stages(norm, "standard") == ["apgd-ce", "apgd-t", "fab-t", "square"]
        assert stages(norm, "plus") == ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
        assert stages(norm, "rand") == ["apgd-ce", "apgd-dlr"]
    for norm, restarts, targets, steps in (("linf", 1, 9, 100), ("l2", 1, 9, 100), ("l1", 5, 5, 102)):
        ce, target, fab, square = AutoAttack(norm, 0.1).stages()
        assert (ce.runs, ce.options["targets"], ce.steps) == (restarts, 0, steps)
        assert (target.options["targets"], target.loss, target.steps) == (targets, "dlr", steps)
        assert (fab.options["targets"], fab.steps) == (9, 100)
        assert square.steps in (4999, 5000)
    assert [stage.samples for stage in AutoAttack(version="rand").stages()] == [20, 20]
    assert stages("linf", "fast") == stages("l1", "fast") == ["apgd-pma", "apgd-t", "fab-t", "square"]
    assert stages("l2", "fast") == ["apgd-pma", "apgd-t", "fmn", "fab-t"]
    plus = AutoAttack(version="plus").stages()
    assert [stage.runs for stage in plus[:3]] == [5, 5, 5]
    with pytest.raises(ValueError, match="version"):
        AutoAttack(version="custom")


def test_stages_get_survivors_only_and_say_who_broke_what():
    model, images, labels = curved(30)

    class Short(AutoAttack):
        def stages(self):
            return [
                APGD("linf", self.eps / 3, 2),  # weak: leaves some to the next
                APGD("linf", self.eps, 15, loss="dlr", targets=4),
                FAB("linf", self.eps, 10, targets=4),
                Square("linf", self.eps, 30),
            ]

    attack = Short("linf", 0.012)
    result = attack.run(model, images, labels, seed=1)
    assert result.robust.any()
    assert {"clean", "apgd-ce", "apgd-t", ""} <= set(result.stage)
    shown, counts = repr(result), (int(result.clean.sum()), int(result.robust.sum()))
    assert shown.startswith(f"AttackResult(30 samples: {counts[0]} right, {counts[1]} robust (") and "\n" not in shown
    assert f"{result.stage.count('apgd-ce')} by apgd-ce" in shown
    # One after the other, by hand.
    left = model(images).argmax(1) == labels
    expected = ["" if right else "clean" for right in left]
    for place, stage in enumerate(attack.stages()):
        alone = stage.run(model, images[left], labels[left], seed=1, sample_ids=left.nonzero().squeeze(1))
        rows = left.nonzero().squeeze(1)
        broken = [row for row, name in enumerate(result.stage) if name == stage.name]
        if place == 0:  # the draws of later stages are keyed by their place
            assert rows[alone.success].tolist() == broken
        for row in broken:
            expected[row] = stage.name
            left[row] = False
    assert result.stage == expected
    assert torch.equal(result.robust, left)
    assert torch.equal(result.images[result.robust], images[result.robust])
    assert torch.equal(result.prediction, model(result.images).argmax(1))
    assert (result.images - images).abs().max() <= 0.012 + 1e-6
    early = torch.tensor([name == "apgd-ce" for name in result.stage])
    assert result.queries[early].max() < result.queries[result.robust].min()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_standard_and_fast_find_the_exact_robust_set_of_linear_models(norm):
    model, images, labels = linear(4, count=16)
    exact = model.distance(images, norm)
    eps = exact.median().item() * (1.1 if norm == "l1" else 1.001)
    sure = (exact / eps - 1).abs() > (0.25 if norm == "l1" else 0.02)
    for version in ("fast", "standard") if norm != "l2" else ("fast",):
        attack = AutoAttack(norm, eps, version)
        if version == "standard":  # the black-box stage at its full budget adds nothing here but time
            attack._stages = [*attack.stages()[:3], Square(norm, eps, 50)]
        result = attack.run(model, images, labels)
        assert torch.equal(result.robust[sure], exact[sure] > eps)
        assert not (result.success & (exact > eps * 1.0001)).any()
        assert result.distance.max() <= eps + 1e-6
    assert sure.sum() >= 8


def test_few_classes_have_a_way_on():
    model, images, labels = linear(2, count=6)
    eps = 1.02 * model.distance(images, "linf").max().item()
    with pytest.warns(UserWarning, match="classes"):
        result = AutoAttack("linf", eps).run(model, images, labels)
    assert result.success.all()


def test_a_random_model_is_attacked_through_its_noise():
    model, images, labels = linear(3, count=8)
    noise = torch.Generator().manual_seed(0)

    def noisy(x):
        return model(x + 0.002 * torch.randn(x.shape, generator=noise))

    eps = 2 * model.distance(images, "linf").max().item()
    attack = AutoAttack("linf", eps, "rand")
    assert attack.name == "autoattack-rand"
    clean = model(images).detach()
    with warnings.catch_warnings():  # it averages over the noise, so the noise is no surprise
        warnings.simplefilter("error", RandomizedOutputWarning)
        result = attack.run(noisy, images, labels, clean_logits=clean)
    assert result.success.float().mean() > 0.8
    assert (result.gradients[result.success] % 20 == 0).all()
    assert attack.at(0.5).version == "rand"
    assert attack.options == {"norm": "linf", "eps": eps, "version": "rand"}
