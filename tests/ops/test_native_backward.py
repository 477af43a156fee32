"""Gradients of the native losses in every training loop: under a loss scale, again, in place, of statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from regfast.ops import dispatch

if dispatch.unavailable("cpu") is not None:
    pytest.skip("the native extension is not built", allow_module_level=True)

from tests.ops.losses import linear_soft_cross_entropy, soft_cross_entropy, soft_cross_entropy_stats

SCALE = 2.0**16
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def native():
    with dispatch.use_backend("cpu"):
        yield


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def of_plain(z: Tensor, labels: Tensor, **options) -> Tensor:
    return soft_cross_entropy(z, labels, index_target=True, **options)


def of_statistics(z: Tensor, labels: Tensor, **options) -> Tensor:
    return soft_cross_entropy_stats(z, labels, index_target=True, **options)[0]


def of_linear(z: Tensor, labels: Tensor, **options) -> Tensor:
    """Logits as features of an identity: their gradient is the loss's."""
    return linear_soft_cross_entropy(
        z, torch.eye(z.shape[1], dtype=z.dtype), None, labels, index_target=True, **options
    )


LOSSES = pytest.mark.parametrize("loss_of", [of_plain, of_statistics, of_linear])


def autocast_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """PyTorch's loss as autocast runs it: in float32, the gradient rounded when it leaves it."""
    return functional.cross_entropy(logits.float(), labels)


@pytest.mark.parametrize("loss_of", [of_plain, of_statistics])
@pytest.mark.parametrize("classes", [1000, 8191, 32000])
def test_float16_under_a_gradient_scaler(loss_of, classes):
    """As exact as PyTorch's under autocast at the classes beside the target; nothing is flushed that PyTorch keeps."""
    rows = 64
    start, labels = draw(rows, classes), torch.randint(classes, (rows,))
    beside = torch.ones(rows, classes, dtype=torch.bool).scatter_(1, labels.unsqueeze(1), False)
    found = []
    for function in (loss_of, autocast_cross_entropy):
        master = torch.nn.Parameter(start.clone())
        optimizer, scaler = torch.optim.SGD([master], 0.1), torch.amp.GradScaler("cpu", init_scale=SCALE)
        for _ in range(2):
            logits = master.half()
            wide = logits.detach().double().requires_grad_()
            exact = torch.autograd.grad(functional.cross_entropy(wide, labels), wide)[0]
            optimizer.zero_grad()
            scaler.scale(function(logits, labels)).backward()
            scaler.unscale_(optimizer)
            error = ((master.grad.double() - exact) / exact).abs()
            found.append((error[beside].max(), (master.grad == 0).sum()))
            scaler.step(optimizer)
            scaler.update()
        assert scaler.get_scale() == SCALE
    for (own, flushed), (torchs, torchs_flushed) in zip(found[:2], found[2:], strict=True):
        assert own <= 2 * torchs and flushed <= torchs_flushed


@pytest.mark.parametrize("bias", [False, True])
def test_float16_of_a_linear_layer_under_a_loss_scale(bias):
    labels = torch.randint(3001, (48,))
    given = [draw(48, 24, dtype=torch.float16), draw(3001, 24, dtype=torch.float16)]
    given.append(draw(3001, dtype=torch.float16)) if bias else None

    def gradients(function, *tensors):
        leaves = [t.detach().requires_grad_() for t in tensors]
        return torch.autograd.grad(function(*leaves) * SCALE, leaves)

    own = gradients(lambda v, w, b=None: linear_soft_cross_entropy(v, w, b, labels, index_target=True), *given)
    torchs = gradients(lambda v, w, b=None: autocast_cross_entropy(functional.linear(v, w, b), labels), *given)
    exact = gradients(
        lambda v, w, b=None: functional.cross_entropy(functional.linear(v, w, b), labels), *(t.double() for t in given)
    )
    for mine, theirs, right in zip(own, torchs, exact, strict=True):
        assert mine.dtype == torch.float16 and mine.isfinite().all()
        error, theirs_error = ((g.double() - right).abs() / right.abs() for g in (mine, theirs))
        # Sums of both signs may be smaller than the least float16 number: 0 is then right, whatever PyTorch gives.
        kept = right.abs() >= torch.finfo(torch.float16).tiny
        assert error.median() <= 2 * theirs_error.median() and (mine[kept] != 0).all()


@LOSSES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [7, 70])
def test_backward_again_and_again(loss_of, dtype, reduction, classes):
    z, labels = draw(6, classes, dtype=dtype).requires_grad_(), torch.arange(6)
    loss = loss_of(z, labels, reduction=reduction)
    wide = z.detach().double().requires_grad_()
    exact = torch.autograd.grad(functional.cross_entropy(wide, labels, reduction="sum"), wide)[0]
    exact = exact / 6 if reduction == "mean" else exact
    close = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 8e-3, torch.float16: 2e-3}[dtype]
    for incoming in (1.0, 1.0, 3.0, 0.5, 1.0):
        grads = torch.full_like(loss, incoming)
        for retain in (torch.autograd.grad(loss, z, grads, retain_graph=True)[0], None):
            if retain is None:
                z.grad = None
                loss.backward(grads, retain_graph=True)
            got = z.grad if retain is None else retain
            torch.testing.assert_close(got.double(), incoming * exact, rtol=4 * close, atol=close)
            got.mul_(100)  # what the caller does with its gradient stays with the caller
    torch.testing.assert_close(torch.autograd.grad(loss, z, grads)[0].double(), exact, rtol=4 * close, atol=close)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, z, grads)


@LOSSES
@pytest.mark.parametrize("mode", ["auto", "recompute"])
def test_gradients_of_many_kinds(loss_of, mode):
    if loss_of is of_linear and mode != "auto":
        pytest.skip("it has one way")
    options = {} if loss_of is of_linear else {"backward": mode}
    z, labels = draw(5, 9).requires_grad_(), torch.arange(5)
    loss, expected = loss_of(z, labels, **options), functional.cross_entropy(z, labels)
    once = torch.autograd.grad(expected, z, retain_graph=True)[0]

    batched = torch.autograd.grad(loss, z, torch.tensor([1.0, -2.0, 0.5]), is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(batched, torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1) * once)

    handle = z.register_hook(lambda g: g.mul_(3))  # in place
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(loss, z, retain_graph=True)[0], 3 * once)
    handle.remove()

    # GradNorm: each task's gradient norm on what they share, then the sum of all.
    shared = z * 1
    tasks = [loss_of(shared * k, labels, **options) for k in (1.0, 2.0)]
    norms = [torch.autograd.grad(task, shared, retain_graph=True)[0].norm() for task in tasks]
    total = sum(task / norm for task, norm in zip(tasks, norms, strict=True))
    wide = z.detach().double().requires_grad_()
    theirs = [functional.cross_entropy(wide * k, labels) for k in (1.0, 2.0)]
    right = sum(t / torch.autograd.grad(t, wide, retain_graph=True)[0].norm() for t in theirs)
    got, exact = torch.autograd.grad(total, z)[0], torch.autograd.grad(right, wide)[0]
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)

    for reentrant in (False, True):
        z.grad = None
        checkpoint(lambda z: loss_of(z * 1, labels, **options), z, use_reentrant=reentrant).backward()
        torch.testing.assert_close(z.grad, once)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss_of(z, labels, **options), z, create_graph=True)


@LOSSES
def test_stored_gradients_are_autograds_own_saved_tensors(loss_of):
    """So that checkpointing and offloading find them."""
    z, packed = draw(6, 5).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t, lambda t: t):
        loss_of(z, torch.arange(6) % 5)
    assert z.shape in packed


LAYOUTS = {
    "contiguous": lambda base: base,
    "gaps": lambda base: base[:, :16],
    "offset": lambda base: base[:, 3:20],
    "every other row": lambda base: base[::2],
    "expanded": lambda base: base[:1].expand(6, -1),
    "overlapping": lambda base: base.as_strided((6, 16), (4, 1)),
    "transposed": lambda base: base.t(),
    "every other column": lambda base: base[:, ::2],
    "chunk": lambda base: base.chunk(2, 1)[0],
    "one row": lambda base: base[2:3],
}


@pytest.mark.parametrize("loss_scale", [1.0, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inplace_writes_to_nothing_but_the_logits(layout, dtype, loss_scale):
    """Where it cannot take their memory the gradient has its own."""
    start = draw(6, 24, dtype=dtype)
    results = []
    for inplace in (False, True):
        leaf = start.clone().requires_grad_()
        base = leaf * 1
        logits = LAYOUTS[layout](base)
        labels = torch.arange(len(logits)) % logits.shape[1]
        loss = soft_cross_entropy(logits, labels, index_target=True, inplace=inplace) * loss_scale
        node = logits.grad_fn
        of_logits, of_leaf = torch.autograd.grad(loss, (logits, leaf), retain_graph=True)
        assert logits.grad_fn is node
        again = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
        assert torch.equal(of_leaf, again)
        again.mul_(100)
        loss.backward()
        assert torch.equal(leaf.grad, of_leaf)
        untouched = torch.ones_like(start, dtype=torch.bool)
        LAYOUTS[layout](untouched).fill_(False) if layout not in ("expanded", "overlapping") else None
        if inplace and layout in ("expanded", "overlapping", "transposed", "every other column", "chunk"):
            untouched.fill_(True)
        assert torch.equal(base.detach()[untouched], start[untouched]) or not inplace
        if inplace and dtype != torch.float16 and not untouched.all():
            assert not torch.equal(logits.detach(), LAYOUTS[layout](start))
        results.append((loss.detach(), of_logits, of_leaf))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_inplace_leaves_parameters_alone():
    start, labels = draw(6, 24), torch.arange(6)
    for logits_of in (lambda leaf: leaf, lambda leaf: leaf[:, :16], lambda leaf: leaf.view(6, 24)):
        leaf = start.clone().requires_grad_()
        logits = logits_of(leaf)
        soft_cross_entropy(logits, labels, index_target=True, inplace=True).backward()
        assert torch.equal(leaf.detach(), start)
        expected = functional.cross_entropy(logits_of(leaf), labels)
        torch.testing.assert_close(leaf.grad, torch.autograd.grad(expected, leaf)[0])


def test_a_change_of_logits_that_hold_the_gradient_is_noticed():
    logits = draw(6, 24).requires_grad_() * 1
    loss = soft_cross_entropy(logits, torch.arange(6), index_target=True, inplace=True)
    with torch.no_grad():
        logits.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


STATISTICS = ("loss", "log_partition", "confidence", "entropy", "margin")


def exact_statistics(z: Tensor, q: Tensor, true: Tensor, factor: Tensor, z_loss: float) -> dict[str, Tensor]:
    """The definitions in float64, for autograd; `factor` (B,) is the weight of the loss, 0 where ignored."""
    lse = z.logsumexp(1)
    log_p = z - lse.unsqueeze(1)
    p = log_p.exp()
    others = z.scatter(1, true.unsqueeze(1), -torch.inf)

    def at(rows: Tensor, classes: Tensor) -> Tensor:  # one of several that are largest, where amax shares its gradient
        return rows.gather(1, classes.unsqueeze(1)).squeeze(1)

    return {
        "loss": (-torch.where(q == 0, 0.0, q * log_p).sum(1) + z_loss * lse.square()) * factor,
        "log_partition": lse,
        "confidence": at(p, p.argmax(1)),
        "entropy": -torch.where(p == 0, 0.0, p * log_p.nan_to_num(0, 0, 0)).sum(1),
        "margin": at(z, true) - at(z, others.argmax(1)),
    }


def case(kind: str, rows: int, classes: int) -> tuple[dict, Tensor, Tensor, Tensor]:
    """Arguments, the target that they come to, the true classes, and the loss's weights."""
    first, second = torch.randint(classes, (2, rows))
    weight, ignored = 0.5 + torch.rand(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.bool)
    arguments: dict = {"sample_weight": weight, "smoothing": 0.1, "class_weight": 0.5 + torch.rand(classes).double()}
    hot = functional.one_hot
    if kind == "dense":
        q = torch.rand(rows, classes, dtype=torch.float64) ** 4
        arguments["dense"], true = q, q.argmax(1)
    else:
        ignored[1] = True
        lam = torch.full((rows,), 0.7).double()
        true, arguments["lam"] = first, lam
        q = lam.unsqueeze(1) * hot(first, classes) + (1 - lam).unsqueeze(1) * hot(second, classes)
        arguments["first"], arguments["second"] = first.clone(), second.clone()
        arguments["second" if kind == "ignored second" else "first"][1] = -100
    q = (0.9 * q + 0.1 / classes) * arguments["class_weight"]
    return arguments, q, true, torch.where(ignored, 0.0, weight)


@pytest.mark.parametrize("kind", ["ignored first", "ignored second", "dense"])
@pytest.mark.parametrize("classes", [2, 7, 64, 65, 1003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_carry_gradients(dtype, classes, kind):
    rows = 19
    arguments, q, true, factor = case(kind, rows, classes)
    z = (2 * draw(rows, 2 * classes, dtype=dtype))[:, :classes].requires_grad_()
    wide = z.detach().double().requires_grad_()
    incoming = {name: torch.randn(rows, dtype=torch.float64) for name in STATISTICS}
    incoming["margin"][1] = 0.0  # of the ignored row it is NaN
    loss, stats = soft_cross_entropy_stats(z, **arguments, z_loss=0.01)
    right = exact_statistics(wide, q, true, factor, 0.01)
    divisor = (arguments["sample_weight"] * (factor != 0)).sum()
    assert loss.dtype == stats.entropy.dtype
    torch.testing.assert_close(loss.double(), right["loss"].sum() / divisor, rtol=2e-6, atol=0)
    close = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 5e-3, torch.float16: 1e-3}[dtype]
    for names, with_loss in ((STATISTICS, True), (STATISTICS, False), *(((name,), True) for name in STATISTICS)):
        parts = [(getattr(stats, n) * incoming[n].to(loss.dtype))[incoming[n] != 0].sum() for n in names]
        exact = [(right[n] * incoming[n])[incoming[n] != 0].sum() for n in names]
        value, answer = sum(parts) + loss * with_loss, sum(exact) + with_loss * right["loss"].sum() / divisor
        got = torch.autograd.grad(value, z, retain_graph=True)[0]
        expected = torch.autograd.grad(answer, wide, retain_graph=True)[0]
        assert got.dtype == dtype
        bound = close * expected.abs().amax(1, keepdim=True) + 1e-6 * (dtype != torch.float64)
        error = (got.double() - expected).abs()
        assert (error <= bound).all(), (names, (error / bound).amax(1))


def test_gradients_of_statistics_at_the_edges():
    rows = [[0.3, -torch.inf, 1.0, 0.2], [torch.nan, 0.0, 1.0, 2.0], [5.0, 5.0, 5.0, 1.0]]
    z = torch.tensor(rows, requires_grad=True)
    loss, stats = soft_cross_entropy_stats(z, torch.tensor([0, -100, 2]), index_target=True)
    # An ignored row has no gradient whatever its logits, unless its statistics are asked for theirs.
    grad = torch.autograd.grad(loss + stats.entropy[[0, 2]].sum(), z, retain_graph=True)[0]
    assert (grad[1] == 0).all() and grad[[0, 2]].isfinite().all() and grad[0, 1] == 0
    # Ties: the lowest index is the prediction, and the largest other.
    (grad,) = torch.autograd.grad(stats.margin[2], z, retain_graph=True)
    assert grad[2].tolist() == [-1, 0, 1, 0]
    (grad,) = torch.autograd.grad(stats.confidence[2], z, retain_graph=True)
    p = z[2].detach().softmax(0)
    torch.testing.assert_close(grad[2], p[0] * (torch.tensor([1.0, 0, 0, 0]) - p))
    # A mean over no row is NaN, which touches no statistic.
    z = draw(2, 4).requires_grad_()
    loss, stats = soft_cross_entropy_stats(z, torch.tensor([-100, -100]), index_target=True)
    assert loss.isnan()
    torch.testing.assert_close(torch.autograd.grad(stats.log_partition.sum(), z)[0], z.detach().softmax(1))
    single = torch.zeros(2, 1, requires_grad=True)
    stats = soft_cross_entropy_stats(single, torch.tensor([0, 0]))[1]
    assert (torch.autograd.grad(stats.margin.sum(), single)[0] == 0).all()
    empty = torch.empty(0, 4, requires_grad=True)
    stats = soft_cross_entropy_stats(empty, torch.empty(0, dtype=torch.int64))[1]
    assert torch.autograd.grad(stats.entropy.sum(), empty)[0].shape == (0, 4)


def test_gradcheck_of_statistics():
    arguments, _, _, _ = case("ignored first", 6, 5)
    z = draw(6, 5, dtype=torch.float64).requires_grad_()

    def values(z: Tensor) -> tuple[Tensor, ...]:
        loss, stats = soft_cross_entropy_stats(z, **arguments, z_loss=0.3)
        return loss, *(getattr(stats, name) for name in STATISTICS[:4]), stats.margin[2:]

    assert torch.autograd.gradcheck(values, z)


def test_compiled_statistics_carry_gradients():
    torch.compiler.reset()
    labels = torch.arange(8) % 5

    def step(z):
        loss, stats = soft_cross_entropy_stats(z, labels, index_target=True, z_loss=0.1)
        return loss + 0.2 * stats.log_partition.square().mean() - 0.1 * stats.entropy.mean(), stats

    z = draw(8, 5).requires_grad_()
    (loss, stats), (expected, eager) = torch.compile(step, fullgraph=True, backend="aot_eager")(z), step(z)
    torch.testing.assert_close((loss, *stats), (expected, *eager), equal_nan=True)
    torch.testing.assert_close(torch.autograd.grad(loss, z), torch.autograd.grad(expected, z))


@pytest.mark.parametrize("kind", ["ignored first", "ignored second", "dense"])
@pytest.mark.parametrize("classes", [2, 7, 64, 65, 1003])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_z_loss(reduction, dtype, classes, kind):
    rows = 19
    arguments, q, true, factor = case(kind, rows, classes)
    z = (2 * draw(rows, classes, dtype=dtype)).requires_grad_()
    wide = z.detach().double().requires_grad_()
    right = exact_statistics(wide, q, true, factor, 0.3)["loss"]
    divisor = (arguments["sample_weight"] * (factor != 0)).sum() if reduction == "mean" else 1.0
    if reduction != "none":
        right = right.sum() / divisor
    expected = torch.autograd.grad(right.sum(), wide)[0]
    ulp = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    terms = 2 * ulp * (factor * q.sum(1) / divisor).unsqueeze(1)  # of p and q, whose difference it is
    close = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    for mode in ("auto", "store", "recompute"):
        loss = soft_cross_entropy(z, **arguments, z_loss=0.3, reduction=reduction, backward=mode)
        torch.testing.assert_close(loss.double(), right, rtol=3e-6, atol=0)
        got = torch.autograd.grad(loss.sum(), z)[0].double()
        assert ((got - expected).abs() <= close * expected.abs().amax(1, keepdim=True) + terms).all()
    if dtype in (torch.float32, torch.float64):
        identity = torch.eye(classes, dtype=dtype)
        linear = linear_soft_cross_entropy(z, identity, None, **arguments, z_loss=0.3, reduction=reduction)
        torch.testing.assert_close(linear.double(), right, rtol=3e-6, atol=0)
        got = torch.autograd.grad(linear.sum(), z)[0].double()
        assert ((got - expected).abs() <= close * expected.abs().amax(1, keepdim=True) + terms).all()


def test_no_z_loss_is_no_z_loss():
    for classes in (5, 100):
        z = torch.full((2, classes), 3e38)  # whose square overflows
        z[:, 0] = 0
        labels = torch.ones(2, dtype=torch.int64)
        leaf = z.clone().requires_grad_()
        loss = soft_cross_entropy(leaf, labels, index_target=True)
        assert loss.isfinite() and torch.autograd.grad(loss, leaf)[0].isfinite().all()
        assert soft_cross_entropy(z, labels, index_target=True, z_loss=0.1).isinf()


@pytest.mark.parametrize("name", ["first", "second", "lam", "dense", "smoothing", "class_weight", "sample_weight"])
@pytest.mark.parametrize("grad", [False, True])
def test_what_lies_elsewhere_is_refused_by_name(name, grad):
    z, labels = draw(6, 10).requires_grad_(grad), torch.arange(6)
    arguments = {"first": labels, "second": labels, "lam": torch.tensor(0.5), "smoothing": torch.tensor(0.1)}
    arguments |= {"class_weight": torch.rand(10), "sample_weight": torch.rand(6)}
    if name == "dense":
        arguments = {"dense": torch.rand(6, 10)}
    arguments[name] = arguments[name].to("meta")
    for function in (soft_cross_entropy, soft_cross_entropy_stats):
        with pytest.raises(ValueError, match=f"{name} must be on cpu, got meta"):
            function(z, **arguments)
    with pytest.raises(ValueError, match=f"{name} must be on cpu, got meta"):
        linear_soft_cross_entropy(z, torch.eye(10), None, **arguments)


def test_a_linear_layer_that_lies_elsewhere_is_refused_by_name():
    v, w, b = draw(6, 4).requires_grad_(), draw(10, 4), draw(10)
    labels = torch.arange(6)
    with pytest.raises(ValueError, match="linear_weight must be on cpu, got meta"):
        linear_soft_cross_entropy(v, w.to("meta"), b, labels)
    with pytest.raises(ValueError, match="linear_bias must be on cpu, got meta"):
        linear_soft_cross_entropy(v, w, b.to("meta"), labels)
    for name, given in (("features", (v.to("meta"), None)), ("centers", (v, w.to("meta")))):
        with pytest.raises(ValueError, match=f"{name} must be on cpu, got meta"):
            soft_cross_entropy_stats(draw(6, 10), labels, features=given[0], centers=given[1])


@LOSSES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backward", ["store", "recompute"])
@pytest.mark.parametrize("incoming", [torch.inf, -torch.inf, torch.nan])
def test_ignored_rows_stay_zero_whatever_comes_in(loss_of, dtype, backward, incoming):
    z, labels = draw(4, 7, dtype=dtype).requires_grad_(), torch.tensor([1, -100, 3, -100])
    options = {} if loss_of is of_linear else {"backward": backward}
    for keep in (True, False):
        loss = loss_of(z, labels, reduction="mean", **options)
        (grad,) = torch.autograd.grad(loss, z, torch.full_like(loss, incoming), retain_graph=keep)
        assert (grad[1::2] == 0).all() and not grad[::2].isfinite().any()
