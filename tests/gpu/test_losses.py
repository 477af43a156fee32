"""The loss kernels on the device, against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from regfast.ops import dispatch
from regfast.ops.reference.feature_stats import feature_stats as reference_feature_stats
from tests.ops import oracle
from tests.ops.losses import linear_soft_cross_entropy, of, soft_cross_entropy, soft_cross_entropy_stats
from tests.ops.triton_inputs import labels, logits, strided, unaligned

reference = of("reference")
TARGETS = ("index", "mixed", "dense")
CLASSES = (1, 2, 7, 10, 31, 32, 33, 100, 1000, 1003, 4096, 16384, 21841, 65537)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def target(kind, rows, classes):
    first = labels(rows, classes).cuda()
    if kind == "index":
        return {"first": first, "index_target": True}
    if kind == "mixed":
        return {"first": first, "second": first.roll(1), "lam": torch.rand(rows, device="cuda")}
    return {"dense": torch.rand(rows, classes, device="cuda")}


def wide(arguments):
    return {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in arguments.items()}


def exact(z, arguments, incoming=None):
    """Loss and gradient of the reference in float64, labels out of range included."""
    leaf = z.detach().double().requires_grad_()
    loss = reference.soft_cross_entropy(leaf, **{k: v for k, v in wide(arguments).items() if k != "backward"})
    loss.backward(torch.ones_like(loss) if incoming is None else incoming.double())
    return loss.detach(), leaf.grad


def close(found, right, rtol, least=1e-2):
    """Largest error relative to the largest entry, or to `least` where all are smaller; NaN in the same places."""
    atol = rtol * max(right.nan_to_num(0).abs().max().item(), least) if right.numel() else 0.0
    torch.testing.assert_close(found.double(), right, rtol=0, atol=atol, equal_nan=True)


def compare(z, arguments, incoming=1.7):
    ours = z.detach().requires_grad_()
    loss = soft_cross_entropy(ours, **arguments)
    incoming = torch.full_like(loss, incoming)
    (grad,) = torch.autograd.grad(loss, ours, incoming)
    right, right_grad = exact(z, arguments, incoming)
    close(loss.detach(), right, 1e-6)
    if z.dtype == torch.float32 or z.shape[1] == 1:  # of a single class the gradient is 0, up to rounding
        close(grad, right_grad, 1e-5)
    else:
        assert oracle.within_an_ulp(grad, right_grad) > 0.999


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradient(gpu_backend, classes, kind, dtype):
    rows = 131 if classes <= 4096 else 7
    z = logits(rows, classes, dtype).cuda()
    # With an incoming gradient of 1 a stored 16-bit gradient is rounded once.
    compare(z, target(kind, rows, classes) | {"smoothing": 0.1}, 1.7 if dtype == torch.float32 else 1.0)
    compare(z, target(kind, rows, classes) | {"reduction": "none"})


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("backward", ["store", "recompute"])
@pytest.mark.parametrize("classes", [10, 1003, 30001])
def test_weights(gpu_backend, kind, reduction, backward, classes):
    arguments = target(kind, 9, classes) | {"reduction": reduction, "smoothing": torch.tensor(0.1).cuda()}
    arguments |= {
        "class_weight": torch.rand(classes).cuda(),
        "sample_weight": torch.rand(9).cuda(),
        "backward": backward,
    }
    compare(logits(9, classes).cuda(), arguments)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 5000, 70001])
@pytest.mark.parametrize("classes", [10, 37])
def test_any_number_of_rows(gpu_backend, rows, classes):
    arguments = target("mixed", rows, classes)
    arguments["first"][::3] = -100
    compare(logits(rows, classes).cuda(), arguments)


def test_no_rows(gpu_backend):
    for classes in (10, 1000, 21841):
        z = torch.empty(0, classes, device="cuda", requires_grad=True)
        loss = soft_cross_entropy(z, labels(0, classes).cuda(), reduction="sum")
        assert loss == 0
        loss.backward()
        assert soft_cross_entropy(z, labels(0, classes).cuda()).isnan()


@pytest.mark.parametrize("classes", [10, 300, 20001])
@pytest.mark.parametrize("kind", TARGETS)
def test_memory_of_any_form(gpu_backend, classes, kind):
    for dtype in DTYPES:
        for form in (unaligned, strided, lambda t: t.t().contiguous().t()):
            z, arguments = form(logits(5, classes, dtype).cuda()), target(kind, 5, classes)
            if kind == "dense":
                arguments["dense"] = form(arguments["dense"].to(dtype))
            compare(z, arguments | {"reduction": "none"})


@pytest.mark.parametrize("classes", [10, 1000, 21841])
@pytest.mark.parametrize("kind", ["index", "mixed"])
def test_ignored_rows_are_zero_and_bad_labels_nan(gpu_backend, classes, kind):
    z, arguments = logits(6, classes).cuda(), target(kind, 6, classes)
    arguments["first"][1], arguments["first"][2], arguments["first"][3] = -100, classes, -1
    z[1] = torch.nan
    for reduction in ("none", "mean"):
        leaf = z.clone().requires_grad_()
        loss = soft_cross_entropy(leaf, **arguments, reduction=reduction, smoothing=0.1)
        loss.backward(torch.ones_like(loss))
        assert leaf.grad[1].eq(0).all() and leaf.grad[2:4].isnan().all() and not leaf.grad[4:].isnan().any()
        assert loss.isnan().any()
    arguments["first"][2] = 1 << 40  # far out of bounds: never an address
    assert soft_cross_entropy(z, **arguments).isnan()
    torch.cuda.synchronize()


@pytest.mark.parametrize("classes", [9, 1000, 21841])
def test_minus_infinity_and_large_offsets(gpu_backend, classes):
    z = ((logits(4, classes) * 64).round() / 64).cuda()
    first = labels(4, classes).cuda().clamp(max=classes - 2)
    right = soft_cross_entropy(z, first, reduction="none", smoothing=0.1)
    torch.testing.assert_close(
        soft_cross_entropy(z + 1e4, first, reduction="none", smoothing=0.1), right, rtol=3e-6, atol=0
    )
    z[:, classes - 1] = -torch.inf
    compare(z, {"first": first, "reduction": "none"})


@pytest.mark.parametrize("classes", [10, 1000, 1003, 21841, 65537])
@pytest.mark.parametrize("kind", TARGETS)
def test_the_same_bits_every_run(gpu_backend, classes, kind):
    z, arguments = (
        logits(300 if classes < 5000 else 40, classes).cuda(),
        target(kind, 300 if classes < 5000 else 40, classes),
    )
    runs = []
    for _ in range(5):
        leaf = z.clone().requires_grad_()
        loss = soft_cross_entropy(leaf, **arguments)
        loss.backward()
        runs.append((loss.detach(), leaf.grad))
    for loss, grad in runs[1:]:
        assert torch.equal(loss, runs[0][0]) and torch.equal(grad, runs[0][1])


@pytest.mark.parametrize("classes", [10, 1000, 21841])
def test_inplace(gpu_backend, classes):
    z, arguments = logits(33, classes).cuda(), target("index", 33, classes)
    leaf = z.clone().requires_grad_()
    own = leaf * 1.0
    loss = soft_cross_entropy(own, **arguments, inplace=True)
    loss.backward()
    right, right_grad = exact(z, arguments)
    close(loss.detach(), right, 1e-6)
    close(leaf.grad, right_grad, 1e-5)
    close(own.detach(), right_grad, 1e-5)


@pytest.mark.parametrize("classes", [10, 1000, 21841])
def test_a_stored_gradient_is_rescaled_on_the_device(gpu_backend, classes):
    z, arguments = logits(33, classes).cuda(), target("mixed", 33, classes)
    leaf = z.clone().requires_grad_()
    loss = soft_cross_entropy(leaf, **arguments) * 3
    with torch.cuda.device(0):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")  # a wait for the device is an error
        try:
            loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    close(leaf.grad, exact(z, arguments)[1] * 3, 1e-5)


@pytest.mark.parametrize("classes", [10, 100, 1000, 21841])
@pytest.mark.parametrize("kind", TARGETS)
def test_steps_that_are_scaled_and_rows_that_are_ignored(gpu_backend, classes, kind):
    z, arguments = logits(33, classes).cuda(), target(kind, 33, classes)
    if kind != "dense":
        arguments["first"][::3] = -100
        z[::3] = torch.nan
    for factor in (1.0, 0.5, 0.5, 1.0, 1.0):  # stored, made anew, recomputed
        compare(z, arguments, factor)
        torch.cuda.synchronize()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("classes", [10, 1000, 21841])
def test_backward_again_and_again(gpu_backend, classes, inplace):
    z, arguments = logits(33, classes).cuda(), target("mixed", 33, classes)
    leaf = z.clone().requires_grad_()
    loss, right = soft_cross_entropy(leaf * 1.0, **arguments, inplace=inplace), exact(z, arguments)[1]
    for incoming in (1.0, 0.5, 1.0):
        (grad,) = torch.autograd.grad(loss, leaf, torch.tensor(incoming, device="cuda"), retain_graph=True)
        close(grad, incoming * right, 1e-5)
        grad.mul_(100)
    scales = torch.tensor([1.0, -2.0], device="cuda")
    (batched,) = torch.autograd.grad(loss, leaf, scales, is_grads_batched=True, retain_graph=True)
    for found, scale in zip(batched, (1.0, -2.0), strict=True):
        close(found, scale * right, 1e-5)
    loss.backward()
    close(leaf.grad, right, 1e-5)


@pytest.mark.parametrize("classes", [10, 1000, 32000])
def test_a_loss_scale_reaches_a_float16_gradient_before_it_is_rounded(gpu_backend, classes):
    z, first = logits(64, classes).half().cuda().requires_grad_(), labels(64, classes).cuda()
    (grad,) = torch.autograd.grad(soft_cross_entropy(z, first) * 2.0**16, z)
    right = exact(z, {"first": first}, torch.tensor(2.0**16, device="cuda"))[1]
    assert oracle.within_an_ulp(grad.cpu(), right.cpu()) > 0.999


@pytest.mark.parametrize("classes", [10, 1000, 21841])
def test_under_a_grad_scaler(gpu_backend, classes):
    z, arguments = logits(64, classes).cuda(), target("index", 64, classes)
    leaf, right = z.clone().requires_grad_(), exact(z, arguments)[1]
    optimizer, scaler = torch.optim.SGD([leaf], 0.0), torch.amp.GradScaler("cuda")
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(soft_cross_entropy(leaf, **arguments)).backward()
        scaler.unscale_(optimizer)
        close(leaf.grad, right, 1e-5)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("classes", [10, 1003])
def test_inplace_writes_between_no_rows(gpu_backend, classes):
    z, arguments = logits(33, classes).cuda(), target("mixed", 33, classes)
    leaf = torch.nn.functional.pad(z, (0, 9), value=7.0).requires_grad_()
    held = leaf * 1.0
    (soft_cross_entropy(held[:, :classes], **arguments, inplace=True) * 0.5).backward()
    close(leaf.grad[:, :classes], 0.5 * exact(z, arguments)[1], 1e-5)
    assert (leaf.grad[:, classes:] == 0).all() and (held[:, classes:] == 7).all()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
@pytest.mark.parametrize("classes", [10, 1000, 21841])
def test_on_a_device_that_is_not_the_current_one(gpu_backend, classes):
    z, first = logits(33, classes).to("cuda:1"), labels(33, classes).to("cuda:1")
    leaf, right = z.clone().requires_grad_(), exact(z, {"first": first})[1]
    for factor in (1.0, 0.5):
        (grad,) = torch.autograd.grad(soft_cross_entropy(leaf, first) * factor, leaf)
        assert grad.device == z.device
        close(grad, factor * right, 1e-5)


def test_reduce_overhead_keeps_its_counter_out_of_the_graphs_pool(gpu_backend):
    z, first = logits(64, 1000).cuda().requires_grad_(), labels(64, 1000).cuda()
    torch._dynamo.reset()
    step = torch.compile(lambda z: soft_cross_entropy(z * 2, first), mode="reduce-overhead", fullgraph=True)
    for _ in range(4):  # warm-up, capture, replays
        torch.compiler.cudagraph_mark_step_begin()
        loss = step(z)
        (grad,) = torch.autograd.grad(loss, z)
        right, right_grad = exact(2 * z, {"first": first})
        close(loss.detach(), right, 1e-6)
        close(grad, 2 * right_grad, 1e-5)


@pytest.mark.parametrize("classes", [10, 1000, 21841])
def test_streams(gpu_backend, classes):
    z, arguments = logits(500, classes).cuda(), target("index", 500, classes)
    right = [soft_cross_entropy(z * (1 + i), **arguments) for i in range(4)]
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream() for _ in range(4)], [[] for _ in range(4)]
    for _ in range(20):
        for i, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                found[i].append(soft_cross_entropy(z * (1 + i), **arguments))
    torch.cuda.synchronize()
    for i in range(4):
        assert all(torch.equal(loss, right[i]) for loss in found[i])


@pytest.mark.parametrize("classes", [10, 1000, 21841])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_cuda_graphs(gpu_backend, classes, scale):
    z, arguments = logits(64, classes).cuda().requires_grad_(), target("mixed", 64, classes)

    def step():
        loss = soft_cross_entropy(z, **arguments, smoothing=0.1)
        return loss, torch.autograd.grad(loss * scale, z)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, grad = step()
    for seed in (1, 2):
        with torch.no_grad():
            z.copy_(logits(64, classes, seed=seed))
        graph.replay()
        right, right_grad = exact(z, arguments | {"smoothing": 0.1})
        close(loss.detach(), right, 1e-6)
        close(grad, scale * right_grad, 1e-5)


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_into_one_graph(gpu_backend, classes, reduction):
    def step(z, first, second, mix):
        return soft_cross_entropy(z * 2, first, second, mix, smoothing=0.1, reduction=reduction).sum()

    first = labels(32, classes).cuda()
    arguments = (first, first.roll(1), torch.rand(32, device="cuda"))
    torch._dynamo.reset()
    found = []
    for run in (step, torch.compile(step, fullgraph=True)):
        z = logits(32, classes).cuda().requires_grad_()
        value = run(z, *arguments)
        value.backward()
        found.append((value.detach(), z.grad))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_under_autocast():
    layer = torch.nn.Linear(16, 10).cuda()
    x, first = torch.randn(8, 16, device="cuda"), labels(8, 10).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        z = layer(x)
        loss = soft_cross_entropy(z, first)
    assert z.dtype == torch.bfloat16 and loss.dtype == torch.float32
    loss.backward()
    close(loss.detach(), exact(z, {"first": first, "index_target": False})[0], 1e-6)


STATS = ("loss", "log_partition", "confidence", "entropy", "margin", "rms", "cosine", "cosine_predicted")


@pytest.mark.parametrize("classes", [1, 10, 1000, 1003, 21841, 65537])
@pytest.mark.parametrize("kind", TARGETS)
def test_statistics(classes, kind):
    rows, width = (131, 515) if classes < 5000 else (5, 100)
    z, arguments = logits(rows, classes).cuda(), target(kind, rows, classes)
    features = torch.randn(rows, width, device="cuda", requires_grad=True)
    centers = torch.randn(classes, width, device="cuda")
    leaf = z.requires_grad_()
    loss, stats = soft_cross_entropy_stats(leaf, **arguments, features=features, centers=centers, feature_grad=True)
    geometry = {"features": features.detach(), "centers": centers}
    right_loss, right = reference.soft_cross_entropy_stats(z.detach().double(), **wide(arguments | geometry))
    close(loss.detach(), right_loss, 1e-6)
    assert torch.equal(stats.prediction, right.prediction)
    for name in STATS:
        found, expected = getattr(stats, name).detach().double(), getattr(right, name)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True, msg=name)
    (loss + stats.rms.sum() + stats.cosine.sum() + stats.cosine_predicted.sum()).backward()
    close(leaf.grad, exact(z, arguments)[1], 1e-5)
    v = features.detach().double().requires_grad_()
    first = arguments.get("first")
    if kind == "mixed":
        first = torch.where(arguments["lam"] < 0.5, arguments["second"], first)
    if kind == "dense":
        first = arguments["dense"].argmax(1)
    geometry = reference_feature_stats(v, centers.double(), first, right.prediction)
    (geometry.rms.sum() + geometry.cosine.sum() + geometry.cosine_predicted.sum()).backward()
    close(features.grad, v.grad, 1e-5)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_linear(kind, reduction):
    rows, width, classes = 700, 64, 50003  # several chunks
    arguments = target(kind, rows, classes) | {"reduction": reduction, "smoothing": 0.1}
    if kind == "dense":
        arguments["dense"] = arguments["dense"] / arguments["dense"].sum(1, keepdim=True)
    inputs = [torch.randn(rows, width), torch.randn(classes, width) / 8, torch.randn(classes)]
    ours = [t.cuda().requires_grad_() for t in inputs]
    right = [t.cuda().double().requires_grad_() for t in inputs]
    loss = linear_soft_cross_entropy(*ours, **arguments)
    expected = reference.linear_soft_cross_entropy(*right, **wide(arguments))
    close(loss.detach(), expected.detach(), 1e-5)
    loss.sum().backward()
    expected.sum().backward()
    for a, b in zip(ours, right, strict=True):
        close(a.grad, b.grad, 1e-4)


def test_the_table_names_backends_that_exist_here():
    text = dispatch.show_config()
    assert "soft_cross_entropy on cuda" in text
    assert dispatch.unavailable("triton") is None


def test_opcheck():
    z, first = logits(5, 9).cuda(), labels(5, 9).cuda()
    from regfast.ops.triton import soft_cross_entropy as triton_loss

    torch.library.opcheck(
        triton_loss._rows_op,
        (z, first, None, None, None, None, None, None, 1.0, 0.1, 0.01, -100, None, None, None, None, None, 0.2, "mean",
         True, True, True, None, None, True),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_static"),
    )  # fmt: skip
    if dispatch.unavailable("cuda") is None:
        none = (None,) * 2
        torch.library.opcheck(
            torch.ops.regfast.soft_cross_entropy.default,
            (z.requires_grad_(), first, *none, 1.0, *none, 0.1, *none, -100, 1, True, False, 0),
            test_utils=("test_schema", "test_faketensor"),
        )
