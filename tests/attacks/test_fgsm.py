"""FGSM: one step along the sign of the gradient."""

import pytest
import torch

from regfast.attacks import FGSM
from tests.attacks.problems import curved, linear


def test_is_one_signed_step():
    model, images, labels = curved(12)
    result = FGSM(eps=0.004).run(model, images, labels)
    point = images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(point), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, point)
    expected = (images + 0.004 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(result.images[result.clean], expected[result.clean], rtol=0, atol=1e-7)
    assert result.gradients.max() <= 2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_is_exact_on_two_class_linear_models(norm):
    model, images, labels = linear(2, count=16)
    exact = model.distance(images, norm)
    eps = exact.median().item() * 1.0001
    result = FGSM(norm, eps).run(model, images, labels)
    sure = (exact / eps - 1).abs() > 1e-3
    assert torch.equal(result.success[sure], (exact < eps)[sure])
    assert sure.sum() >= 14


def test_random_start_stays_in_the_ball():
    model, images, labels = curved(12)
    plain = FGSM(eps=0.01).run(model, images, labels)
    result = FGSM(eps=0.01, random_start=True).run(model, images, labels)
    assert (result.images - images).abs().max() <= 0.01 + 1e-6
    assert not torch.equal(result.images, plain.images)
