"""Curves of robust accuracy over eps."""

import pytest
import torch

from regfast.attacks.curves import robust_accuracy_curve
from regfast.attacks.ddn import DDN
from regfast.attacks.fab import FAB
from regfast.attacks.fmn import FMN
from regfast.attacks.pgd import PGD
from tests.attacks.test_fab import exact_distances, linear_problem


@pytest.mark.parametrize(
    "attack", [FMN("l2", steps=150), DDN(steps=150), FAB("l2", None, steps=40, targets=3)], ids=repr
)
def test_the_curve_is_the_exact_one_of_a_linear_model(attack):
    model, images, labels, weight = linear_problem(3, n=60, gap=4.0)
    labels[::6] = (labels[::6] + 1) % 6  # wrong from the start
    exact = exact_distances(model, images, model(images).argmax(1), weight, "l2").amin(1)
    result = attack.run(model, images, labels)
    eps = torch.linspace(0, exact.max().item() * 1.5, 40)
    curve = robust_accuracy_curve(result, eps)
    assert (curve.diff() <= 0).all()
    assert curve[0].item() == pytest.approx(result.clean.double().mean().item())
    assert curve[-1] == 0
    truth = (result.clean & (exact > eps[:, None])).double().mean(1)
    assert (curve >= truth - 1e-9).all()
    assert (curve - truth).abs().mean() < 0.02


def test_the_curve_agrees_with_an_attack_at_one_eps():
    model, images, labels, weight = linear_problem(4, n=60, gap=4.0)
    exact = exact_distances(model, images, labels, weight, "linf").amin(1)
    eps = exact.median().item()
    curve = robust_accuracy_curve(FAB("linf", None, steps=40, targets=5).run(model, images, labels), [eps])
    assert curve.item() == pytest.approx(
        PGD("linf", eps, steps=40).run(model, images, labels).robust_accuracy, abs=0.04
    )


@pytest.mark.parametrize("eps", [[-0.1], [float("nan")], 0.5])
def test_bad_radii(eps):
    model, images, labels, _ = linear_problem(5, n=4)
    result = FMN("l2", steps=2).run(model, images, labels)
    with pytest.raises(ValueError, match="eps"):
        robust_accuracy_curve(result, eps)
