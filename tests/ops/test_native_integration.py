"""The native ops as torch sees them: registration, autograd, compilation, autocast, and what a build leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

import regfast
from regfast.ops import dispatch

if dispatch.unavailable("cpu") is not None:
    pytest.skip("the native extension is not built", allow_module_level=True)

from regfast import _native
from regfast.functional import linear_soft_cross_entropy, soft_cross_entropy, soft_cross_entropy_stats
from regfast.ops import soft_cross_entropy as ops
from regfast.ops.target import Target

ROOT = Path(__file__).parents[2]
OPS = torch.ops.regfast


@pytest.fixture(autouse=True)
def native():
    with dispatch.use_backend("cpu"):
        yield


def target(reduction: int = 1, ignored: int = 5) -> tuple[object, ...]:
    first = torch.tensor([1, 5, 0, 9, 9, 2])
    return (
        first, first.roll(1), torch.rand(6), 0.0, None, torch.tensor(0.1), 0.0, torch.rand(10), torch.rand(6), ignored,
        reduction, False, 0.1,
    )  # fmt: skip


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


def calls():
    z, v, w, c = leaf(6, 10), leaf(6, 12), leaf(10, 12), torch.randn(10, 12)
    x, labels = torch.rand(6, 3, 4, 4), torch.tensor([1, 5, 0, 9, 9, 2])
    ids, noise = torch.arange(6), torch.randn(6, 3, 4, 4)
    yield "soft_cross_entropy", (z, *target(), False, 0)
    yield "soft_cross_entropy", (z, *target(0), False, 0)
    yield "soft_cross_entropy_forward", (z.detach(), *target(), True)
    yield "soft_cross_entropy_backward", (torch.ones(()), z.detach(), *target())
    yield "soft_cross_entropy_inplace", (z.detach().clone(), *target())
    # Without ignored rows: opcheck takes their NaN for a difference.
    yield "soft_cross_entropy_stats", (z, *target(1, -100), v, c, 0, True)
    yield "soft_cross_entropy_stats", (z, *target(2, -100), None, None, 0, False)
    yield "feature_stats", (v, c, labels, labels, -100)
    yield "linear_soft_cross_entropy", (v, w, None, *target())
    yield "linear_soft_cross_entropy", (v, w, leaf(10), *target(0))
    yield "objective", (z.detach(), labels, "dlr", None)
    yield "perturb_step", (x, noise, x, None, 0.1, None, 0.02, 0, x, None, 0.75, None, 1.0, 0.0, 1.0)
    yield "l1_box_projection", (x, noise, torch.rand(6), 0.0, 0.0, 1.0)
    yield "random_start", (x, None, 0.1, 1, -5, ids, 0, ids, ids, True, 0.0, 1.0)
    yield "philox_uniform", (5, ids, 0, ids, ids, 7)
    yield "philox_normal", (5, ids, 0, ids, ids, 7)


@pytest.mark.parametrize(("name", "arguments"), [pytest.param(n, a, id=f"{i}-{n}") for i, (n, a) in enumerate(calls())])
def test_opcheck(name, arguments):
    opcheck(getattr(OPS, name).default, arguments)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("classes", [7, 40])
def test_gradcheck(reduction, classes):
    z = torch.randn(5, classes, dtype=torch.float64, requires_grad=True)
    mixed = regfast.SoftTargets(
        first=torch.arange(5), second=torch.arange(5).roll(1), weight=torch.rand(5).double(), smoothing=0.1,
        num_classes=classes,
    )  # fmt: skip
    w = torch.rand(classes).double()
    for t in (mixed, torch.rand(5, classes).double(), torch.arange(5)):
        assert torch.autograd.gradcheck(
            lambda z, t=t: soft_cross_entropy(z, t, reduction=reduction, class_weight=w, label_smoothing=0.2), z
        )
    v, weight, bias = (
        torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((5, 4), (classes, 4), (classes,))
    )
    assert torch.autograd.gradcheck(
        lambda *a: linear_soft_cross_entropy(*a, mixed, reduction=reduction), (v, weight, bias)
    )


def test_gradcheck_of_feature_statistics():
    z = torch.randn(5, 6, dtype=torch.float64)
    v = torch.randn(5, 8, dtype=torch.float64, requires_grad=True)
    centers = torch.randn(6, 8, dtype=torch.float64)

    def geometry(v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return soft_cross_entropy_stats(z, torch.arange(5), v, centers, feature_grad=True)[1][-3:]

    assert torch.autograd.gradcheck(geometry, v)


def test_backward_twice_gives_the_same_gradient():
    z = leaf(6, 50)
    loss = soft_cross_entropy(z, torch.arange(6))
    for incoming in (1.0, 1.0, 3.0, 1.0):
        got = torch.autograd.grad(loss, z, torch.tensor(incoming), retain_graph=True)[0]
        z.grad = None
        loss.backward(torch.tensor(incoming), retain_graph=True)
        expected = incoming * (z.detach().softmax(1) - torch.eye(50)[:6]) / 6
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(z.grad, expected)
        z.grad.mul_(100)  # what the caller does with its gradient stays with the caller


def test_second_derivatives_are_refused():
    z = leaf(3, 4)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(soft_cross_entropy(z, torch.arange(3)), z, create_graph=True)


def test_inplace_takes_the_logits_memory_and_only_then():
    z = leaf(6, 50)
    logits = z * 1
    before = logits.detach().clone()
    soft_cross_entropy(logits, torch.arange(6)).backward()
    assert torch.equal(logits, before)
    kept, z.grad = z.grad, None
    logits = z * 1
    soft_cross_entropy(logits, torch.arange(6), inplace=True).backward()
    torch.testing.assert_close(z.grad, kept)
    assert not torch.equal(logits, before)
    exponential = z.exp()  # saves its result for its own backward: overwriting it must be noticed
    loss = soft_cross_entropy(exponential, torch.arange(6), inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compiled_losses_are_the_eager_ones():
    torch.compiler.reset()

    def run(z, v, c, weight):
        first = torch.arange(len(z)) % z.shape[1]
        mixed = regfast.SoftTargets(
            first=first, second=first.roll(1), weight=weight, smoothing=0.1, num_classes=z.shape[1]
        )
        loss, stats = soft_cross_entropy_stats(z, mixed, v, c, feature_grad=True)
        return loss * 2 + stats.rms.mean() + soft_cross_entropy(z.bfloat16(), first, reduction="none").sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for rows in (8, 12):
        z, v, c, weight = leaf(rows, 20), leaf(rows, 6), torch.randn(20, 6), torch.tensor(0.3)
        results = []
        for function in (run, compiled):
            loss = function(z, v, c, weight)
            results.append((loss, *torch.autograd.grad(loss, (z, v))))
        torch.testing.assert_close(results[1], results[0])


@pytest.mark.slow
def test_compiled_by_inductor():
    torch.compiler.reset()
    z, dense = leaf(64, 100), torch.rand(64, 100)
    expected = torch.autograd.grad(soft_cross_entropy(z * 2, dense), z)[0]
    got = torch.autograd.grad(torch.compile(lambda z: soft_cross_entropy(z * 2, dense), fullgraph=True)(z), z)[0]
    torch.testing.assert_close(got, expected)


def test_autocast():
    model, v = torch.nn.Linear(8, 30), torch.randn(6, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(v)
        loss = soft_cross_entropy(logits, torch.arange(6))
        fused = linear_soft_cross_entropy(v, model.weight, model.bias, torch.arange(6))
    assert logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    torch.testing.assert_close(fused, loss, rtol=2e-2, atol=0)
    loss.backward()
    assert model.weight.grad.dtype == torch.float32


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 30))
        v = torch.randn(6, 8)
        soft_cross_entropy(model(v), torch.arange(6)).backward()
        expected = torch.autograd.grad(
            torch.nn.functional.cross_entropy(model(v), torch.arange(6)), model.module.weight
        )
        torch.testing.assert_close(model.module.weight.grad, expected[0])
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("first", "second", "row"), [([0, 4, 1], [0, 1, 2], 1), ([0, 1, -1], [0, 1, 2], 2), ([0, 1, 2], [0, 1, 4], 2)]
)
def test_labels_out_of_range_name_the_row(first, second, row):
    arguments = (torch.tensor(first), torch.tensor(second), None, 0.5, None, None, 0.0, None, None, -100, 1, False, 0.0)
    with pytest.raises(IndexError, match=f"row {row}"):
        OPS.soft_cross_entropy(torch.randn(3, 4), *arguments, False, 0)


def test_build_facts():
    facts = _native.build_facts()
    assert facts["isa_active"] in facts["isa"] and facts["compiler"].startswith(("gcc", "clang"))
    assert facts["torch"] == torch.__version__


def test_without_a_compiler_there_is_a_warning_and_no_failure(tmp_path):
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "regfast").mkdir()
    (tmp_path / "regfast/__init__.py").touch()
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = regfast\n[options]\npackages = regfast\n")
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = {**os.environ, "CXX": "/bin/false", "CC": "/bin/false"}
    done = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WITHOUT its native kernels" in done.stderr
    assert not list(tmp_path.glob("regfast/*.so"))
    strict = subprocess.run(build, cwd=tmp_path, env=environment | {"REGFAST_REQUIRE_NATIVE": "1"}, capture_output=True)
    assert strict.returncode != 0


def test_plain_labels_take_one_native_call_and_others_none():
    z, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 4])
    given = {"logits": z, "labels": labels, "smoothing": 0.1, "ignore_index": 2, "reduction": "mean", "inplace": False}
    given |= {"backward": "auto"}
    for reduction in ("none", "mean", "sum"):
        target = Target(labels, smoothing=0.1, ignore_index=2, reduction=reduction, index_target=True)
        plain = ops.loss_of_labels(**given | {"reduction": reduction})
        assert torch.equal(plain, ops.soft_cross_entropy(z, target))
    for changed in (
        {"labels": labels.int()}, {"labels": labels[1:]}, {"labels": labels[:, None]}, {"logits": z[:, :0]},
        {"smoothing": torch.tensor(0.1)}, {"smoothing": 1.5}, {"ignore_index": 2**63}, {"reduction": "average"},
        {"inplace": 1}, {"backward": "never"}, {"logits": z.to_sparse()}, {"logits": z.long()},
    ):  # fmt: skip
        assert ops.loss_of_labels(**given | changed) is None
    with dispatch.use_backend("reference"):
        assert ops.loss_of_labels(**given) is None
