"""The CUDA loss kernels, every thread of them run on the CPU, against the reference in float64."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.cuda_on_cpu import build, losses
from tests.cuda_on_cpu.losses import Layout
from tests.ops import oracle
from tests.ops.losses import of

pytestmark = pytest.mark.skipif(build.COMPILER is None, reason="no g++ 12 here")

reference = of("reference")
KINDS = ("index", "mixed", "dense")
HALVES = (torch.float16, torch.bfloat16)
# A thread a row, two blocks of them; 16 and 32 threads a row, more rows than groups; a block a row; a cluster a row.
SHAPES = {1: 3, 2: 129, 3: 5, 10: 131, 31: 2, 32: 128, 33: 300, 100: 21, 150: 9, 1000: 3, 1003: 37}
SHAPES |= {2500: 5, 21841: 2, 40001: 3}


@pytest.fixture(autouse=True)
def machine():
    build.library("soft_cross_entropy").machine("random")


def batch(rows, classes, dtype=torch.float32, scale=3.0):
    generator = torch.Generator().manual_seed(torch.initial_seed() + 31 * rows + classes)
    return (scale * torch.randn(rows, classes, generator=generator)).to(dtype)


def target(kind, rows, classes, dense_dtype=torch.float32):
    generator = torch.Generator().manual_seed(torch.initial_seed() + 7 * rows + classes)
    first, second = torch.randint(classes, (2, rows), generator=generator)
    if kind == "index":
        return {"first": first, "index_target": True}
    if kind == "mixed":
        return {"first": first, "second": second, "lam": torch.rand(rows, generator=generator)}
    dense = torch.rand(rows, classes, generator=generator) ** 4
    return {"dense": (dense / dense.sum(1, keepdim=True)).to(dense_dtype)}


def wide(arguments):
    return {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in arguments.items()}


def exact(z, arguments, grad_output=None):
    leaf = z.double().requires_grad_()
    loss = reference.soft_cross_entropy(leaf, **wide(arguments))
    loss.backward(torch.ones_like(loss) if grad_output is None else grad_output.double())
    return loss.detach(), leaf.grad


def check(z, arguments, grad_output=None, **how):
    """Every row's loss to a relative 1e-6; gradient to 1e-5 of its largest entry (16 bits: one in the last place).

    Where softmax and target nearly cancel, p - q is as good as a float32 p can be: to 2 ulp of a p near 1.
    """
    right_loss, right = exact(z, arguments, grad_output)
    loss, grad = losses.run(z, arguments, grad_output=grad_output, **how)
    if grad_output is None and z.shape[1] > 1:
        torch.testing.assert_close(loss.double(), right_loss, rtol=1e-6, atol=1e-30, equal_nan=True)
    assert torch.equal(grad.isnan(), right.isnan())
    kept = right.nan_to_num(0)
    error = (grad.double().nan_to_num(0) - kept).abs().amax(1)
    if z.dtype == torch.float32 or z.shape[1] == 1:
        largest = kept.abs().amax(1)
        bound = 1e-5 * largest + (1e-7 if z.shape[1] == 1 else 2.0**-22 * largest.max())
        assert (error <= bound).all(), f"{(error / bound).max()} times the bound"
    else:
        assert oracle.within_an_ulp(grad.nan_to_num(0), kept) > 0.999
    return loss, grad


@pytest.mark.parametrize("classes", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_float32(kind, classes):
    check(batch(SHAPES[classes], classes), target(kind, SHAPES[classes], classes) | {"smoothing": 0.1})


@pytest.mark.parametrize("classes", [10, 33, 1003, 40001])
@pytest.mark.parametrize("kind", [*KINDS, "dense16"])
@pytest.mark.parametrize("dtype", HALVES)
def test_sixteen_bits_round_once(dtype, kind, classes):
    rows = min(SHAPES[classes], 9)
    chosen = target(kind.removesuffix("16"), rows, classes, dtype if kind == "dense16" else torch.float32)
    check(batch(rows, classes, dtype), chosen | {"reduction": "none", "smoothing": 0.1})


@pytest.mark.parametrize("classes", [10, 1003, 40001])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_smoothing_and_ignored_rows(kind, reduction, classes):
    rows = 5
    arguments = target(kind, rows, classes) | {"reduction": reduction, "smoothing": torch.tensor(0.1)}
    arguments |= {"class_weight": 0.5 + torch.rand(classes), "sample_weight": 0.5 + torch.rand(rows)}
    if kind != "dense":
        arguments["first"][1] = arguments["ignore_index"] = 4
    _, grad = check(batch(rows, classes), arguments)
    if kind != "dense":
        assert (grad[arguments["first"] == 4] == 0).all()


@pytest.mark.parametrize("classes", [10, 1003])
@pytest.mark.parametrize("lam", [0.3, torch.tensor(0.7), 1 - 1e-6], ids=str)
def test_lambda_of_the_whole_batch(lam, classes):
    check(batch(5, classes), target("mixed", 5, classes) | {"lam": lam})


@pytest.mark.parametrize("classes", [10, 1003])
@pytest.mark.parametrize("class_weight", [False, True])
def test_means_leave_ignored_rows_out_however_they_are_counted(class_weight, classes):
    rows = 2500 if classes == 10 else 9  # of 2500 several blocks make the sum
    arguments = target("index", rows, classes)
    arguments["first"][::3] = -100
    if class_weight:
        arguments["class_weight"] = torch.rand(classes)
    for count_rows in (True, False):
        check(batch(rows, classes), arguments, count_rows=count_rows)
    arguments["first"][:] = -100
    loss, grad = losses.run(batch(rows, classes), arguments)
    assert loss.isnan() and (grad == 0).all()


@pytest.mark.parametrize("classes", [32, 1003, 3001, 40001])
@pytest.mark.parametrize("kind", ["index", "mixed"])
def test_ignored_rows_are_not_read(kind, classes):
    rows = 1200 if classes == 32 else 13
    gap = 0 if classes == 32 else -classes % (build.PAGE // 4)  # a row a page, or 32 rows
    z, arguments = batch(rows, classes), target(kind, rows, classes)
    ignored = torch.arange(rows) // (32 if classes == 32 else 1) % 3 < 2
    arguments["second" if kind == "mixed" else "first"][ignored] = -100
    build.library("soft_cross_entropy").machine(
        "random", processors=1
    )  # of many blocks, each looks at the labels first
    for grad_output in (None, torch.tensor(1.7)):
        layout = Layout(gap=gap, shift=0)
        _, grad = check(z, arguments, grad_output, layout=layout, hidden=ignored)
        assert (grad[ignored] == 0).all() and (grad[~ignored] != 0).any(1).all()


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("classes", [10, 100, 3001, 40001])
def test_a_stored_gradient_is_made_anew_where_grad_output_is_not_one(classes, dtype):
    rows = 5
    z, arguments = batch(rows, classes, dtype), target("mixed", rows, classes) | {"smoothing": 0.1}
    _, stored = losses.run(z, arguments)
    _, kept = losses.run(z, arguments, grad_output=torch.tensor(1.0), stored=torch.full_like(stored, 3.0))
    assert (kept == 3).all()
    scale = torch.tensor(1.7)
    _, made = losses.run(z, arguments, grad_output=scale, stored=stored)
    assert torch.equal(made, losses.run(z, arguments, grad_output=scale)[1])  # as if none had been stored
    assert torch.equal(losses.run(z, arguments, grad_output=torch.tensor(1.0))[1], stored)


def test_clusters_are_as_many_as_run_at_once():
    library = build.library("soft_cross_entropy")
    library.machine("forward", processors=132)
    found = {classes: library.clusters(ctypes.c_int64(4096), classes) for classes in (1000, 128256)}
    assert found == {1000: 0, 128256: 48}  # 132 processors in 8 groups, three blocks each: 49 would need one more group


@pytest.mark.parametrize("classes", [10, 1003, 40001])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_backward_takes_the_incoming_gradient(reduction, classes):
    incoming = torch.tensor([0.5, -2.0, 0.0]) if reduction == "none" else torch.tensor(1.7)
    check(batch(3, classes), target("mixed", 3, classes) | {"reduction": reduction, "smoothing": 0.1}, incoming)


@pytest.mark.parametrize("classes", [10, 1003, 32000])
def test_a_loss_scale_reaches_a_float16_gradient_before_it_is_rounded(classes):
    rows = 64 if classes == 10 else 9
    z, arguments = batch(rows, classes, torch.float16, scale=1.0), target("index", rows, classes)
    _, grad = check(z, arguments, torch.tensor(2.0**16))
    assert (grad != 0).all()


@pytest.mark.parametrize("classes", [10, 33, 1003, 40001])
@pytest.mark.parametrize("kind", KINDS)
def test_in_place(kind, classes):
    for dtype in (torch.float32, torch.bfloat16):
        check(batch(3, classes, dtype), target(kind, 3, classes), inplace=True)


def test_without_a_gradient():
    for classes in (10, 1003):
        z, arguments = batch(3, classes), target("mixed", 3, classes)
        loss, grad = losses.run(z, arguments, gradient=False)
        torch.testing.assert_close(loss.double(), exact(z, arguments)[0], rtol=1e-6, atol=0)
        assert torch.equal(grad, z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [10, 33, 1003])
@pytest.mark.parametrize(
    "layout",
    [
        Layout(shift=0),
        Layout(shift=1),
        Layout(shift=3, grad_shift=2),
        Layout(gap=5),
        Layout(gap=1, shift=1, grad_gap=3),
    ],
)
def test_rows_anywhere(layout, classes, dtype):
    for kind in ("mixed", "dense"):
        arguments = target(kind, 5, classes, dtype) | {"reduction": "none"}
        check(batch(5, classes, dtype), arguments, layout=layout)


@pytest.mark.parametrize("classes", [2, 10, 1003, 40001])
@pytest.mark.parametrize("kind", KINDS)
def test_confident_rows_keep_their_digits(kind, classes):
    rows = 256 if classes <= 10 else 4
    z, arguments = batch(rows, classes, scale=0.5), target(kind, rows, classes)
    if kind == "dense":
        arguments["dense"] = torch.nn.functional.one_hot(torch.arange(rows) % classes, classes).float()
    label = arguments["dense"].argmax(1) if kind == "dense" else arguments["first"]
    z[torch.arange(rows), label] += torch.linspace(6, 14, rows)  # beyond 16, z - m is rounded by more than this
    check(z, arguments | {"reduction": "none"})


@pytest.mark.parametrize("classes", [10, 1003, 40001])
@pytest.mark.parametrize("kind", KINDS)
def test_offsets_lose_nothing(kind, classes):
    z, arguments = batch(3, classes).round(decimals=0), target(kind, 3, classes) | {"reduction": "none"}
    assert all(map(torch.equal, losses.run(z + 1e4, arguments), losses.run(z, arguments)))


@pytest.mark.parametrize("classes", [10, 1003, 40001])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_minus_infinity(kind, classes):
    z, arguments = batch(3, classes), target(kind, 3, classes) | {"reduction": "none"}
    z[:, ::2] = -torch.inf
    if kind == "dense":
        arguments["dense"][:2, ::2] = 0  # the last row keeps its weight there: an infinite loss
    else:
        arguments["first"] = torch.tensor([1, 1, 0])
        arguments["second" if kind == "mixed" else "first"] = torch.tensor([3, 1, 2])
    right_loss, right = exact(z, arguments)
    loss, grad = losses.run(z, arguments)
    torch.testing.assert_close(loss.double(), right_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), right, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("classes", [10, 1003, 40001])
@pytest.mark.parametrize("wrong", [-1, "classes", 1 << 40, -(1 << 62)])
def test_labels_out_of_range_are_nan_and_read_nothing(wrong, classes):
    wrong = classes if wrong == "classes" else wrong
    for name in ("first", "second"):
        arguments = target("mixed", 3, classes) | {"reduction": "none", "class_weight": torch.rand(classes)}
        z, sane = batch(3, classes), {k: v.clone() if k == name else v for k, v in arguments.items()}
        arguments[name][1] = wrong
        loss, grad = losses.run(z, arguments)
        right_loss, right = exact(z, sane)
        right_loss[1] = right[1] = torch.nan
        torch.testing.assert_close(loss.double(), right_loss, rtol=1e-6, atol=0, equal_nan=True)
        torch.testing.assert_close(grad.double(), right, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("classes", [10, 1003, 40001])
def test_the_order_of_threads_and_blocks_changes_no_bit(classes):
    rows = 300 if classes == 10 else 19
    z, arguments = batch(rows, classes), target("mixed", rows, classes) | {"smoothing": 0.1}
    found = []
    for order, seed in (("forward", 0), ("backward", 0), ("random", 1), ("random", 2)):
        build.library("soft_cross_entropy").machine(order, seed, processors=3)
        found.append(losses.run(z, arguments))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clusters", [False, True])
@pytest.mark.parametrize("shared_memory", [12 * 1024, 48 * 1024, 227 * 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_devices(dtype, shared_memory, clusters, kind):
    """Rows that fit no shared memory are read again; without clusters a block has whole rows."""
    library = build.library("soft_cross_entropy")
    library.machine("random", 1, processors=2, shared_memory=shared_memory, clusters=clusters)
    for layout in (losses.PLAIN, Layout(shift=3, gap=2)):
        check(batch(3, 33003, dtype), target(kind, 3, 33003) | {"reduction": "none"}, layout=layout)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("shift", [None, 0, 1])
def test_rescale(shift, dtype):
    grad = batch(3, 1003, dtype)
    assert torch.equal(losses.rescale(grad, 1.0, shift), grad)
    assert torch.equal(losses.rescale(grad, -1.7, shift), (grad.float() * -1.7).to(dtype))
    grad[1] = 0  # an ignored row
    expected = torch.where(grad == 0, 0, grad.float() * torch.inf).to(dtype)
    assert torch.equal(losses.rescale(grad, torch.inf, shift), expected)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("classes", [2, 10, 1003, 40001])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_z_loss(dtype, kind, classes, reduction):
    rows = 5
    z, arguments = batch(rows, classes, dtype), target(kind, rows, classes)
    weight = arguments["sample_weight"] = 0.5 + torch.rand(rows)
    if kind != "dense":
        arguments["first"][1] = -100
    right_loss, right = exact(z, arguments | {"reduction": "none"})
    leaf = z.double().requires_grad_()
    kept = torch.arange(rows) != 1 if kind != "dense" else torch.ones(rows, dtype=torch.bool)
    penalty = torch.where(kept, 0.3 * leaf.logsumexp(1).square() * weight.double(), 0.0)
    (added,) = torch.autograd.grad(penalty.sum(), leaf)
    divisor = weight.double()[kept].sum() if reduction == "mean" else 1.0
    rows_right, right = (right_loss + penalty.detach()) / divisor, (right + added) / divisor
    loss, grad = losses.run(z, arguments | {"z_loss": 0.3, "reduction": reduction})
    expected = rows_right.sum() if reduction == "mean" else rows_right
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=0)
    rounding = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert ((grad.double() - right).abs() <= rounding * right.abs().amax(1, keepdim=True) + 1e-7).all()
    incoming = torch.tensor(1.7) if reduction == "mean" else torch.linspace(0.5, 2.0, rows)
    _, grad = losses.run(z, arguments | {"z_loss": 0.3, "reduction": reduction}, grad_output=incoming)
    right = right * incoming.double().reshape(-1, 1)
    assert ((grad.double() - right).abs() <= rounding * right.abs().amax(1, keepdim=True) + 1e-7).all()


def test_no_z_loss_is_no_z_loss():
    for classes in (5, 100):
        z = torch.full((2, classes), 3e38)  # whose square overflows
        z[:, 0] = 0
        loss, grad = losses.run(z, {"first": torch.ones(2, dtype=torch.int64)})
        assert loss.isfinite() and grad.isfinite().all()


@pytest.mark.parametrize("classes", [10, 1003])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_ignored_for_either_label(weighted, classes):
    rows = 300 if classes == 10 else 9
    z, arguments = batch(rows, classes), target("mixed", rows, classes)
    if weighted:
        arguments["sample_weight"] = 0.5 + torch.rand(rows)
    sides = torch.arange(rows) % 3
    for count_rows in (True, False):
        by_first, by_either = ({k: v.clone() for k, v in arguments.items()} for _ in range(2))
        by_first["first"][sides > 0] = -100
        by_either["first"][sides == 1] = -100
        by_either["second"][sides == 2] = -100
        both = [losses.run(z, given, count_rows=count_rows) for given in (by_first, by_either)]
        assert both[0][0].isfinite() and all(map(torch.equal, *both))
        assert (both[1][1][sides > 0] == 0).all() and (both[1][1][sides == 0] != 0).any()
