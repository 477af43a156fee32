"""The kernels of attacks under Triton's interpreter: objectives, steps, random starts, random numbers."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU tests/gpu runs the kernels themselves", allow_module_level=True)

from regfast.ops.objective import KINDS
from regfast.ops.reference import objective as reference_objective
from regfast.ops.reference import perturbation as reference
from regfast.ops.reference import philox as reference_philox
from regfast.ops.triton import objective, perturbation, philox
from tests.ops import oracle
from tests.ops.triton_inputs import apart, labels, logits, of_a_rows_size, poisoned, strided, unaligned

__all__ = ["poisoned"]

SHAPES = [(3, 2, 3, 5), (2, 1), (1, 5000), (0, 4), (2, 0)]


@pytest.fixture(params=["one shot", "many passes"])
def passes(request, monkeypatch):
    if request.param == "many passes":
        monkeypatch.setattr(objective, "row_shape", lambda *_: {"ROWS": 1, "BLOCK": 8, "num_warps": 4})
        monkeypatch.setattr(perturbation, "_SINGLE_LIMIT", 8)


def compare(z, first, kind, targets):
    found = objective.objective(z, first, kind, targets)
    right = reference_objective.objective(z.double(), first, kind, targets)
    assert torch.equal(found.prediction, right.prediction)
    torch.testing.assert_close(found.loss.double(), right.loss, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert found.gradient.dtype == z.dtype
    if z.dtype == torch.float32:
        near = of_a_rows_size(found.gradient, right.gradient)
        torch.testing.assert_close(*near, rtol=1e-4, atol=1e-5, equal_nan=True)
    else:
        assert oracle.within_an_ulp(found.gradient, right.gradient) > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_objectives(passes, kind):
    for classes in (1, 2, 4, 19):
        if classes >= KINDS[kind]:
            compare(apart(3, classes), labels(3, classes), kind, labels(3, classes, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_objectives_with_ties_and_minus_infinity(passes, kind):
    z = logits(6, 9).round()
    z[1, 3] = z[1, 5] = z[1].max() + 1
    z[0, 7] = -torch.inf
    for first in (labels(6, 9), z.argmax(1)):
        compare(z, first, kind, first.roll(1))


@pytest.mark.parametrize("kind", ["ce", "dlr", "margin-targeted", "probability-margin"])
def test_objectives_of_many_classes_in_any_memory(kind):
    compare(logits(2, 17003), labels(2, 17003), kind, labels(2, 17003, 1))
    for form in (unaligned, strided, torch.Tensor.t):
        compare(form(logits(12, 12)), labels(12, 12), kind, labels(12, 12, 1))
    compare(logits(4, 300, torch.bfloat16), labels(4, 300), kind, labels(4, 300, 1))


@pytest.mark.parametrize("kind", ["dlr", "dlr-targeted"])
def test_terms_that_cancel_in_one_class_leave_no_rounding(passes, kind):
    z = logits(40, 10, torch.bfloat16)  # in some rows the label is the third
    compare(z, labels(40, 10), kind, labels(40, 10, 1))


def test_objectives_of_bad_labels_are_nan(passes):
    first = torch.tensor([0, -1, 5, 1 << 40])
    found = objective.objective(logits(4, 5), first, "dlr-targeted", torch.tensor([1, 1, 1, 1]))
    assert found.loss.isnan().tolist() == [False, True, True, True]
    assert found.gradient.isnan().all(1).tolist() == [False, True, True, True]
    found = objective.objective(logits(4, 5), labels(4, 5), "ce-targeted", first)
    assert found.loss.isnan().tolist() == [False, True, True, True]


def test_no_rows():
    found = objective.objective(logits(0, 5), labels(0, 5), "ce")
    assert found.loss.shape == (0,) and found.gradient.shape == (0, 5)


def points(shape):
    clean = torch.rand(shape)
    point, previous = ((clean + 0.05 * torch.randn(shape)).clamp(0, 1) for _ in range(2))
    gradient = torch.randn(shape)
    gradient.view(-1)[::7] = 0
    return clean, point, previous, gradient


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steps(passes, shape, norm):
    clean, point, previous, gradient = points(shape)
    for eps, before in ((0.03, None), (torch.rand(shape[0]) * 0.1, previous)):
        eps = eps if norm == "linf" else eps * 5
        arguments = {"previous": before, "momentum": 0.75, "sparsity": torch.rand(shape[0]) * 0.9 + 0.05}
        size = torch.rand(shape[0]) * 0.05
        found = perturbation.perturb_step(point, gradient, clean, eps, size, norm, **arguments)
        right = reference.perturb_step(point, gradient, clean, eps, size, norm, **arguments)
        if norm == "linf":
            assert torch.equal(found, right)
        else:
            torch.testing.assert_close(found, right, rtol=1e-5, atol=2e-6)


def test_steps_with_half_gradients_and_no_gradient():
    clean, point, _, gradient = points((3, 40))
    for norm in ("linf", "l2"):
        found = perturbation.perturb_step(point, gradient.bfloat16(), clean, 0.1, 0.02, norm)
        right = reference.perturb_step(point, gradient.bfloat16(), clean, 0.1, 0.02, norm)
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)
        still = perturbation.perturb_step(point, torch.zeros_like(gradient), clean, 10.0, 0.02, norm)
        torch.testing.assert_close(still, point, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("start", ["sphere", "ball"])
def test_random_starts(shape, norm, start):
    clean, eps = torch.rand(shape), torch.rand(shape[0])
    sample, restart = torch.arange(shape[0]) + (1 << 33), torch.arange(shape[0])
    arguments = (clean, eps, norm, (1 << 63) + 3, sample, 3, restart, torch.full_like(restart, 9))
    found = perturbation.random_start(*arguments, start=start)
    right = reference.random_start(*arguments, start=start)
    if norm == "linf":
        assert torch.equal(found, right)
    else:
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eps", [0.0, 0.5, 5.0, 1e6])
def test_l1_projection(eps):
    clean, delta = torch.rand(4, 300), torch.randn(4, 300)
    clean[0, :5], clean[1, :5] = 0, 1
    found = perturbation.l1_box_projection(clean, delta, eps)
    right = oracle.l1_box(clean, delta, torch.full((4,), eps))
    torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, (1 << 31) + 1, (1 << 33) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("name", ["uniform", "normal"])
def test_random_numbers_are_the_references(seed, name):
    sample = torch.tensor([0, 1, 5, (1 << 40) + 7, (1 << 62) + 12345])
    restart, step = torch.tensor([0, 1, 2, 3, (1 << 24) - 1]), torch.tensor([0, 7, (1 << 32) - 1, 3, 4])
    for count in (0, 1, 5, 1025):
        arguments = (seed, sample, 127, restart, step, count)
        assert torch.equal(getattr(philox, name)(*arguments), getattr(reference_philox, name)(*arguments))


def test_one_graph_under_compile():
    def attack(z, first, point, clean, sample):
        answer = objective.objective(z, first, "dlr")
        moved = perturbation.perturb_step(point, answer.gradient, clean, 0.1, 0.02, "linf")
        start = perturbation.random_start(clean, 0.1, "l2", 7, sample, 0, torch.zeros_like(sample), sample)
        return answer.loss, moved, start, perturbation.l1_box_projection(clean, moved - clean, 0.1)

    arguments = (logits(5, 8), labels(5, 8), torch.rand(5, 8), torch.rand(5, 8), torch.arange(5))
    torch._dynamo.reset()
    for a, b in zip(
        attack(*arguments), torch.compile(attack, backend="aot_eager", fullgraph=True)(*arguments), strict=True
    ):
        assert torch.equal(a, b)
