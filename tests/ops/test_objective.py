from __future__ import annotations

import math

import pytest
import torch

from regfast.ops.objective import KINDS, objective
from tests.ops import oracle
from tests.ops.backends import on_cpu
from tests.ops.triton_inputs import apart, of_a_rows_size

pytestmark = on_cpu("objective")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [4, 10, 101])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradient(backend, kind, classes, dtype):
    logits = apart(40, classes)
    if dtype == torch.bfloat16:  # whose 8 bits hold no more
        logits = (logits * 8).floor() / 8
    logits = logits.to(dtype)
    labels, targets = torch.randint(classes, (2, 40))
    labels[:10] = logits[:10].argmax(1)  # right, and wrong ones
    exact = logits.double().requires_grad_()
    values = oracle.objective(exact, labels, kind, targets)
    gradient = torch.autograd.grad(values.sum(), exact)[0]
    got = objective(logits, labels, kind, targets)
    close = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    torch.testing.assert_close(got.loss.double(), values, **close)
    assert torch.equal(got.prediction, logits.argmax(1))
    assert got.gradient.dtype == dtype
    loose = {"rtol": 1e-2, "atol": 1e-3} if dtype == torch.bfloat16 else close
    torch.testing.assert_close(*of_a_rows_size(got.gradient, gradient), **loose)


def test_ties_go_to_the_lowest_index(backend):
    logits = torch.tensor([[2.0, 5.0, 5.0, 1.0, 1.0]])
    got = objective(logits, torch.tensor([2]), "margin")
    assert got.prediction.tolist() == [1] and got.loss.tolist() == [0.0]
    assert got.gradient.tolist() == [[0, 1, -1, 0, 0]]
    got = objective(logits, torch.tensor([0]), "dlr")  # ranks: 1, 2, 0
    assert got.loss.tolist() == [1.0]
    torch.testing.assert_close(
        got.gradient, torch.tensor([[-1 / 3 + 1 / 3, 1 / 3 - 1 / 3, 0, 0, 0]]), atol=1e-7, rtol=0
    )
    equal = objective(torch.zeros(1, 4), torch.tensor([1]), "dlr")
    assert equal.loss.tolist() == [0.0] and equal.gradient.isfinite().all()


def test_offset_and_extremes(backend):
    logits = (torch.randn(20, 10) * 16).round() / 16
    labels = torch.randint(10, (20,))
    for kind in ("ce", "margin", "dlr", "probability-margin"):
        here, there = objective(logits, labels, kind), objective(logits + 1e4, labels, kind)
        torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)
    far = objective(torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([0]), "ce")
    assert far.loss.tolist() == [0.0] and far.gradient.tolist() == [[0, 0, 0]]


def test_strides_and_empty(backend):
    logits, labels = torch.randn(6, 9).t(), torch.randint(6, (18,))[::2]
    torch.testing.assert_close(
        objective(logits, labels, "dlr"), objective(logits.contiguous(), labels.contiguous(), "dlr")
    )
    none = objective(torch.empty(0, 5), torch.empty(0, dtype=torch.int64), "ce")
    assert none.loss.shape == (0,) and none.gradient.shape == (0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_least_number_of_classes(backend, kind):
    least = KINDS[kind]
    labels = torch.zeros(2, dtype=torch.int64)
    assert objective(torch.randn(2, least), labels, kind, labels).loss.shape == (2,)
    if least > 1:
        with pytest.raises(ValueError, match=f"at least {least} classes"):
            objective(torch.randn(2, least - 1), labels, kind, labels)


def test_bad_arguments(backend):
    logits, labels = torch.randn(2, 5), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="kind must be one of"):
        objective(logits, labels, "hinge")
    with pytest.raises(ValueError, match="targets"):
        objective(logits, labels, "dlr-targeted")
    with pytest.raises(IndexError, match="5"):
        objective(logits, torch.tensor([0, 5]), "ce")
    with pytest.raises(IndexError, match="-1"):
        objective(logits, labels, "margin-targeted", torch.tensor([-1, 0]))


def test_compiles_whole(backend):
    torch.compiler.reset()
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    for kind in ("ce", "dlr"):
        compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")(logits, labels, kind)
        torch.testing.assert_close(compiled, objective(logits, labels, kind))
    assert math.isfinite(compiled.loss.sum())


def test_what_does_not_fit_is_named(backend):
    z, first = torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"logits must be \(B, K\), got \(5,\)"):
        objective(z[0], first, "ce")
    with pytest.raises(ValueError, match=r"labels must be \(4,\), one for each row, got \(2,\)"):
        objective(z, first[:2], "ce")
    with pytest.raises(ValueError, match=r"targets must be \(4,\), one for each row, got \(2,\)"):
        objective(z, first, "ce-targeted", first[:2])
