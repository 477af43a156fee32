import math

import pytest
import torch

from regfast.representation import confidence_contours, gradient_field
from tests.representation.closed_forms import random_head

X, Y = torch.linspace(-3, 3, 13), torch.linspace(-2, 2, 7)


def points():
    return torch.stack([X.repeat(len(Y)), Y.repeat_interleave(len(X))], 1).double()


def test_contours_are_the_softmax_of_every_grid_point():
    weight, bias = random_head(5, 2, seed=0)
    field = confidence_contours(weight, bias, X, Y)
    logits = points() @ weight.T + bias
    top = logits.topk(2, dim=1).values
    torch.testing.assert_close(field.confidence.flatten(), torch.softmax(logits, 1).amax(1))
    assert torch.equal(field.prediction.flatten(), logits.argmax(1))
    torch.testing.assert_close(field.margin.flatten(), top[:, 0] - top[:, 1])
    assert field.confidence.shape == (7, 13)


def test_two_classes_are_a_sigmoid_along_one_axis():
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    field = confidence_contours(weight, None, X, Y)
    torch.testing.assert_close(field.confidence, torch.sigmoid(2 * X.double().abs()).expand(7, 13))
    descent = gradient_field(weight, None, 0, X, Y)
    torch.testing.assert_close(descent.loss, torch.log1p(torch.exp(-2 * X.double())).expand(7, 13))
    torch.testing.assert_close(descent.gradient[..., 0], (-2 * torch.sigmoid(-2 * X.double())).expand(7, 13))
    assert float(descent.gradient[..., 1].abs().max()) == 0
    torch.testing.assert_close(descent.margin, (2 * X.double()).expand(7, 13))


def test_gradient_is_autograds():
    weight, bias = random_head(6, 2, seed=2)
    field = gradient_field(weight, bias, 3, X, Y)
    grid = points().requires_grad_()
    loss = torch.nn.functional.cross_entropy(grid @ weight.T + bias, torch.full((len(grid),), 3), reduction="none")
    torch.testing.assert_close(field.loss.flatten(), loss.detach())
    torch.testing.assert_close(field.gradient.view(-1, 2), torch.autograd.grad(loss.sum(), grid)[0])


def test_far_out_the_gradient_keeps_its_direction():
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    field = gradient_field(weight, None, 0, torch.tensor([100.0]), torch.tensor([0.0]))
    # 1 - p rounds to 0 here; the gradient is -2·exp(-200).
    assert float(field.gradient[0, 0, 0]) == pytest.approx(-2 * math.exp(-200), rel=1e-12)
    assert float(field.loss) == pytest.approx(math.exp(-200), rel=1e-12)


def test_bad_input_is_named():
    weight, bias = random_head(3, 2)
    with pytest.raises(ValueError, match=r"weight must have shape \(K, 2\)"):
        confidence_contours(random_head(3, 4)[0], None, X, Y)
    with pytest.raises(ValueError, match="x must have shape"):
        confidence_contours(weight, bias, X[None], Y)
    for label in (3, -1):
        with pytest.raises(IndexError, match="label must lie in 0 … 2"):
            gradient_field(weight, bias, label, X, Y)
