"""What a loss does about ignored rows and a `grad_output` that is not 1, under Triton's interpreter."""

from __future__ import annotations

import operator
import os

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU tests/gpu runs the kernels themselves", allow_module_level=True)

from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from benchmarks.gpu.traffic import count, counted
from regfast.ops.target import Target
from regfast.ops.triton import scaling
from regfast.ops.triton import soft_cross_entropy as loss
from tests.ops.losses import of
from tests.ops.triton_inputs import labels, logits, poisoned, strided

__all__ = ["poisoned"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No backward pass has been yet."""
    monkeypatch.setattr(scaling, "_met", {})


@pytest.fixture(params=["one shot", "two passes"])
def passes(request, monkeypatch):
    if request.param == "two passes":
        monkeypatch.setattr(loss, "row_shape", lambda *_: {"ROWS": 1, "BLOCK": 8, "num_warps": 4})


def target(kind: str, rows: int, classes: int) -> Target:
    """Every third row ignored."""
    first = labels(rows, classes)
    first[1::3] = -100
    if kind == "index":
        return Target(first, index_target=True)
    return Target(first, labels(rows, classes, 1), torch.rand(rows), smoothing=0.1)


@pytest.mark.parametrize("kind", ["index", "mixed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_has_the_same_bits_stored_made_anew_and_recomputed(passes, kind, dtype):
    z, q = logits(7, 13, dtype), target(kind, 7, 13)
    for factor in (1.0, 0.37):
        found = []
        for backward in ("store", "recompute"):
            leaf = z.clone().requires_grad_()
            value = loss.soft_cross_entropy(leaf, q, backward=backward)
            kept = torch.autograd.grad(value, leaf, torch.tensor(factor), retain_graph=True)[0]
            found.append((value.detach(), torch.autograd.grad(value, leaf, torch.tensor(factor))[0], kept))
        for stored, recomputed in zip(*found, strict=True):
            assert torch.equal(stored, recomputed)
        assert torch.equal(found[0][1], found[0][2])


def test_the_gradient_is_made_where_the_last_backward_pass_says(monkeypatch):
    z, q = logits(4, 9), target("index", 4, 9)
    run, stored = loss.rows_eager, []

    def watched(*arguments):
        if arguments[12] is None:  # a forward pass
            stored.append(arguments[-5])
        return run(*arguments)

    monkeypatch.setattr(loss, "rows_eager", watched)
    for factor in (1.0, 0.5, 0.5, 1.0, 1.0):
        leaf = z.clone().requires_grad_()
        value = loss.soft_cross_entropy(leaf, q)
        value.backward(torch.tensor(factor))
        exact = z.double().requires_grad_()
        torch.nn.functional.cross_entropy(exact, q.first).backward(torch.tensor(factor).double())
        torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-5, atol=3e-7)
    assert stored == [True, True, False, False, True]


@pytest.mark.parametrize("kind", ["hard", "mixed"])
@pytest.mark.parametrize(("case", "most"), [("1", 2), ("scaled", 3), ("half ignored", 1.5)])
def test_what_is_moved(kind, case, most):
    for classes in (1000, 1003):
        traffic = count(classes, kind, case)
        # Labels, losses and sums of eight rows beside 1,000 classes.
        assert traffic.moved / (8 * 4 * classes) <= most + 0.05
        assert traffic.again / (8 * 4 * classes) <= 0.05


def test_ignored_rows_are_not_moved_by_a_scaled_step(passes):
    q, u = target("index", 9, 40), 9 * 4 * 40
    z = logits(9, 40)
    z[1::3] = torch.nan
    for inplace, most in ((False, 2 / 3 + 1 + 2 * 2 / 3), (True, 2 / 3 + 1 + 2 * 2 / 3)):
        scaling._met.clear()
        leaf = z.clone().requires_grad_()
        with counted() as traffic:
            value = loss.soft_cross_entropy(leaf * 1.0, q, inplace=inplace)
            value.backward(torch.tensor(0.5))
        assert traffic.moved <= (most + 0.6) * u  # of a row its label and its sums beside 40 classes
        assert leaf.grad[1::3].eq(0).all() and leaf.grad[0].ne(0).any()


@pytest.mark.parametrize("weighted", [False, True])
def test_the_divisor_is_summed_over_many_programs(weighted):
    rows, classes = 2500, 7
    first, second, weight, sample = (
        labels(rows, classes),
        labels(rows, classes, 1),
        torch.rand(classes),
        torch.rand(rows),
    )
    first[::3], second[::7] = -100, -100
    counts = (first != -100) & (second != -100)
    if weighted:
        found = scaling.share_sum(first, second, weight, sample, -100, rows, classes)
        right = (sample * weight[first.clamp(0)])[counts].double().sum()
    else:
        found, right = scaling.share_sum(first, second, None, None, -100, rows, classes), counts.sum().double()
    torch.testing.assert_close(found.double(), right, rtol=1e-6, atol=0)


@pytest.mark.parametrize("classes", [5, 9])
def test_rescaling_goes_around(monkeypatch, classes):
    monkeypatch.setattr(scaling, "_PROGRAMS", 2)
    monkeypatch.setattr(scaling, "keeps_graph", lambda: False)
    monkeypatch.setattr(scaling, "row_shape", lambda *_: {"ROWS": 2, "BLOCK": 8, "num_warps": 4})
    first = labels(11, classes)
    first[4] = -100
    grad = strided(logits(11, classes))
    grad[4] = 0
    between = torch.as_strided(grad, (10, 5), (classes + 5, 1), grad.storage_offset() + classes).fill_(7.0)
    expected = grad * 0.3
    found = scaling.rescale(grad, torch.tensor(0.3), first, None, -100)
    assert found is grad and torch.equal(found, expected)
    assert between.eq(7.0).all()


def test_a_loss_of_scaled_parts_agrees_with_the_reference(passes):
    z, q = logits(6, 11), target("mixed", 6, 11)
    for _ in range(2):
        leaf, exact = z.clone().requires_grad_(), z.double().requires_grad_()
        value = loss.soft_cross_entropy(leaf, q) / 3 + loss.soft_cross_entropy(leaf, Target(dense=z.softmax(1))) * 0.2
        wide = Target(q.first, q.second, q.lam.double(), smoothing=0.1)
        reference = of("reference")
        right = reference.soft_cross_entropy(exact, wide.first, wide.second, wide.lam, smoothing=0.1) / 3
        right = right + reference.soft_cross_entropy(exact, dense=z.double().softmax(1)) * 0.2
        value.backward()
        right.backward()
        torch.testing.assert_close(value.detach().double(), right.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("kind", ["index", "mixed"])
def test_a_compiled_step_is_one_launch_a_pass(kind):
    rows, classes = 6, 8
    z, q = logits(rows, classes).requires_grad_(), target(kind, rows, classes)
    graphs = []

    def kept(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def step(z):
        return loss.soft_cross_entropy(z, q) / 3

    torch._dynamo.reset()
    compiled = torch.compile(step, backend=aot_autograd(fw_compiler=kept, bw_compiler=kept), fullgraph=True)
    compiled(z).backward()
    asked = []
    for graph in graphs:
        for node in graph.graph.nodes:
            if node.target is torch.ops.regfast_triton.rows.default:
                asked.append(node.args[-5])  # for the gradient
            elif node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor):
                # Of the logits' size nothing is moved but by these launches.
                assert node.meta["val"].numel() < rows * classes or node.target is operator.getitem
    assert asked == [False, True]
    exact = z.detach().clone().requires_grad_()
    step(exact).backward()
    torch.testing.assert_close(z.grad, exact.grad, rtol=1e-6, atol=1e-7)


def test_a_graph_under_capture_takes_no_memory_of_the_host(monkeypatch):
    device, capturing = torch.device("cuda", 3), True
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, dtype, pin_memory: zeros(*shape, dtype=dtype))
    assert scaling.met_scale(device) is None and not scaling._met
    capturing = False
    kept = scaling.met_scale(device)
    capturing = True
    assert kept is not None and scaling.met_scale(device) is kept
