import importlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from regfast.compat import torchattacks

EPS, ALPHA, STEPS = 0.1, 0.03, 5


class Model(nn.Sequential):
    """Smooth and generic, so that no gradient is near 0 by chance."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 5))


def problem(count=16):
    model = Model().eval()
    images = torch.rand(count, 3, 6, 6)
    return model, images, model(images).argmax(1)


def loop(model, images, labels, *, sign=1.0, norm="linf", decay=None, size=ALPHA, steps=STEPS, eps=EPS):
    point, velocity = images.clone(), torch.zeros_like(images)
    for _ in range(steps):
        point.requires_grad_()
        (slope,) = torch.autograd.grad(sign * F.cross_entropy(model(point), labels), point)
        if decay is not None:
            velocity = slope = slope / slope.abs().mean((1, 2, 3), keepdim=True) + decay * velocity
        if norm == "linf":
            point = (images + (point.detach() + size * slope.sign() - images).clamp(-eps, eps)).clamp(0, 1)
        else:
            delta = point.detach() + size * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - images
            delta *= (eps / delta.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)
            point = (images + delta).clamp(0, 1)
    return point


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_steps_are_the_same():
    model, images, labels = problem()
    close(torchattacks.FGSM(model, eps=EPS)(images, labels), loop(model, images, labels, size=EPS, steps=1))
    plain = loop(model, images, labels)
    close(torchattacks.BIM(model, EPS, ALPHA, STEPS)(images, labels), plain)
    close(torchattacks.PGD(model, EPS, ALPHA, STEPS, random_start=False)(images, labels), plain)
    momentum = torchattacks.MIFGSM(model, EPS, ALPHA, STEPS, decay=0.8)(images, labels)
    close(momentum, loop(model, images, labels, decay=0.8))
    euclid = torchattacks.PGDL2(model, eps=0.5, alpha=0.2, steps=STEPS, random_start=False)(images, labels)
    close(euclid, loop(model, images, labels, norm="l2", eps=0.5, size=0.2))


def test_targets():
    model, images, labels = problem()
    attack = torchattacks.PGD(model, EPS, ALPHA, STEPS, random_start=False)
    away = attack(images, labels)
    attack.set_mode_targeted_by_label(quiet=True)
    goal = (labels + 1) % 5
    close(attack(images, goal), loop(model, images, goal, sign=-1.0))
    attack.set_mode_targeted_by_function(lambda images, labels: (labels + 2) % 5, quiet=True)
    close(attack(images, labels), loop(model, images, (labels + 2) % 5, sign=-1.0))
    attack.set_mode_targeted_least_likely(kth_min=2, quiet=True)
    assert attack.get_mode() == "targeted(least-likely)"
    close(attack(images, labels), loop(model, images, model(images).kthvalue(2).indices, sign=-1.0))
    attack.set_mode_targeted_random(quiet=True)
    assert not torch.equal(attack(images, labels), attack(images, labels))
    attack.set_mode_default()
    close(attack(images, labels), away)


def test_normalized_images_come_and_go():
    model, images, labels = problem()
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(-1, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(-1, 1, 1)

    class Normalized(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, normal):
            return self.inner(normal * std + mean)

    attack = torchattacks.PGD(Normalized().eval(), EPS, ALPHA, STEPS, random_start=False)
    attack.set_normalization_used(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25])
    close(attack((images - mean) / std, labels) * std + mean, loop(model, images, labels))


def test_random_starts_are_fresh_and_come_from_the_seed():
    model, images, labels = problem()
    attack, again = (torchattacks.PGD(model, EPS, ALPHA, 1, seed=3) for _ in range(2))
    first, second = attack(images, labels), attack(images, labels)
    assert not torch.equal(first, second)
    assert torch.equal(again(images, labels), first) and torch.equal(again(images, labels), second)
    attack.eps = 0.01  # settings may change between calls
    assert float((attack(images, labels) - images).abs().max()) <= 0.01 + 1e-6


def test_what_fools_else_the_image():
    model, images, labels = problem()
    for attack in (torchattacks.APGD(model, eps=0.05), torchattacks.APGDT(model, "L2", 0.3, n_classes=5)):
        found = attack(images, labels)
        right = model(found).argmax(1) == labels
        assert not right.all() and torch.equal(found[right], images[right])
    whole = torchattacks.AutoAttack(model, eps=0.2)(images, labels)
    assert (model(whole).argmax(1) != labels).all()
    with pytest.raises(ValueError, match="not supported"):
        torchattacks.APGD(model).set_mode_targeted_by_label()
    with pytest.raises(ValueError, match="rho"):
        torchattacks.APGD(model, rho=0.5)


def test_the_model_is_attacked_in_eval_mode_and_left_in_its_own():
    model, images, labels = problem()
    torchattacks.PGD(model.train(), EPS, ALPHA, 2)(images, labels)
    assert model.training and model[0].weight.requires_grad


@pytest.mark.parametrize("name", ["FGSM", "BIM", "MIFGSM", "PGD", "PGDL2", "APGD", "APGDT"])
def test_the_same_robust_sets_as_the_package_itself(name):
    pytest.importorskip("torchattacks")
    model, images, labels = problem(60)
    options = {"PGD": {"random_start": False}, "PGDL2": {"random_start": False, "eps": 0.5}, "APGDT": {"n_classes": 5}}
    robust = []
    for module in (importlib.import_module("torchattacks"), torchattacks):
        attack = getattr(module, name)(model, **{"eps": 0.03, **options.get(name, {})})
        robust.append(model(attack(images, labels)).argmax(1) == labels)
    assert torch.equal(*robust) and robust[0].any() and not robust[0].all()
