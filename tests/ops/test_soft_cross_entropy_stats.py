from __future__ import annotations

import math

import pytest
import torch

from tests.ops import oracle
from tests.ops.backends import on_cpu
from tests.ops.losses import check_rows_without_softmax, soft_cross_entropy, soft_cross_entropy_stats

pytestmark = on_cpu("soft_cross_entropy", "soft_cross_entropy_stats")


def batch(rows: int, classes: int, width: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(torch.initial_seed() + rows + 7 * classes)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    first, second = torch.randint(classes, (2, rows), generator=generator)
    return 3 * draw(rows, classes), first, second, draw(rows, width), draw(classes, width)


@pytest.mark.parametrize("classes", [1, 2, 10, 1003])
@pytest.mark.parametrize("kind", ["index", "mixed", "dense"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_are_the_definitions(backend, classes, kind, dtype):
    logits, first, second, features, centers = batch(21, classes, 13, dtype)
    weight = torch.linspace(0, 1, 21)
    target: dict = {"first": first, "second": second, "lam": weight}
    true = torch.where(weight < 0.5, second, first)
    if kind == "index":
        target, true = {"first": first}, first
    elif kind == "dense":
        target = {"dense": torch.rand(21, classes).round(decimals=1)}  # with ties: the lowest index is the true class
        true = torch.tensor([row.tolist().index(max(row.tolist())) for row in target["dense"]])
    loss, stats = soft_cross_entropy_stats(logits, **target, features=features, centers=centers, smoothing=0.1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    close = {"rtol": 1e-12, "atol": 1e-12} if wide == torch.float64 else {"rtol": 1e-5, "atol": 2e-6}
    expected = oracle.statistics(logits, true)
    assert stats.prediction.dtype == torch.int64
    assert torch.equal(stats.prediction, expected["prediction"])
    rms, cosine = oracle.geometry(features, centers, true)
    expected |= {
        "rms": rms,
        "cosine": cosine,
        "cosine_predicted": oracle.geometry(features, centers, stats.prediction)[1],
    }
    for name in ("log_partition", "confidence", "entropy", "margin", "rms", "cosine", "cosine_predicted"):
        got = getattr(stats, name)
        assert got.dtype == wide and got.shape == (21,), name
        torch.testing.assert_close(got.double(), expected[name].double(), **close, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(stats.loss, soft_cross_entropy(logits, **target, smoothing=0.1, reduction="none"))
    torch.testing.assert_close(loss, soft_cross_entropy(logits, **target, smoothing=0.1))


def test_ignored_rows(backend):
    logits, first, _, features, centers = batch(6, 5, 4)
    first[2] = -100
    _, stats = soft_cross_entropy_stats(logits, first, features=features, centers=centers)
    assert stats.loss[2] == 0 and stats.margin[2].isnan() and stats.cosine[2].isnan()
    for name in ("log_partition", "confidence", "entropy", "rms", "cosine_predicted"):
        assert getattr(stats, name).isfinite().all(), name
    assert stats.margin.isnan().sum() == 1 and stats.cosine.isnan().sum() == 1


def test_ties_and_infinities(backend):
    logits = torch.tensor([[1.0, 3.0, 3.0, -math.inf], [2.0, 2.0, 2.0, 2.0], [-math.inf, -math.inf, 0.0, -math.inf]])
    _, stats = soft_cross_entropy_stats(logits, torch.tensor([2, 3, 2]))
    assert stats.prediction.tolist() == [1, 0, 2]
    torch.testing.assert_close(stats.margin, torch.tensor([0.0, 0.0, math.inf]))
    torch.testing.assert_close(stats.confidence, torch.tensor([1 / (2 + math.exp(-2)), 0.25, 1.0]))
    torch.testing.assert_close(stats.entropy[1:], torch.tensor([math.log(4), 0.0]))
    assert soft_cross_entropy_stats(torch.tensor([[0.7]]), torch.tensor([0]))[1].margin.tolist() == [math.inf]


def test_what_is_not_given_is_nan(backend):
    logits, first, _, features, _ = batch(6, 5, 4)
    stats = soft_cross_entropy_stats(logits, first)[1]
    assert stats.rms.isnan().all() and stats.cosine.isnan().all() and stats.cosine_predicted.isnan().all()
    stats = soft_cross_entropy_stats(logits, first, features=features)[1]
    assert stats.rms.isfinite().all() and stats.cosine.isnan().all()


def test_zero_feature_has_cosine_zero(backend):
    logits, first, _, features, centers = batch(6, 5, 4)
    features[1] = 0
    centers[int(first[3])] = 0
    stats = soft_cross_entropy_stats(logits, first, features=features, centers=centers)[1]
    assert stats.rms[1] == 0 and stats.cosine[1] == 0 and stats.cosine_predicted[1] == 0 and stats.cosine[3] == 0


def test_gradients_reach_features_unless_told_otherwise(backend):
    logits, first, _, features, centers = batch(6, 5, 4)
    logits.requires_grad_()
    features.requires_grad_()

    def penalized(z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        loss, stats = soft_cross_entropy_stats(z, first, features=v, centers=centers, smoothing=0.1)
        return loss + 0.3 * stats.rms.sum() - (stats.cosine * stats.cosine_predicted).sum()

    assert torch.autograd.gradcheck(penalized, (logits, features))
    _, stats = soft_cross_entropy_stats(logits, first, features=features, centers=centers, feature_grad=False)
    assert not any(value.requires_grad for value in (stats.rms, stats.cosine, stats.cosine_predicted))
    _, stats = soft_cross_entropy_stats(logits.detach(), first, features=features, centers=centers)
    assert not any(value.requires_grad for value in stats[:6]) and stats.rms.requires_grad


@pytest.mark.parametrize("name", ["loss", "log_partition", "confidence", "entropy", "margin"])
@pytest.mark.parametrize("kind", ["index", "mixed", "dense"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_statistics_carry_gradients(backend, name, kind, reduction):
    logits, first, second, _, _ = batch(7, 6, 3)
    logits.requires_grad_()
    first[2] = -100
    target: dict = {"first": first, "index_target": True}
    if kind == "mixed":
        target = {"first": first, "second": second, "lam": torch.rand(7, dtype=torch.float64)}
    elif kind == "dense":
        target = {"dense": torch.rand(7, 6, dtype=torch.float64)}
    target |= {"class_weight": torch.rand(6, dtype=torch.float64), "sample_weight": torch.rand(7, dtype=torch.float64)}

    def penalized(z: torch.Tensor) -> torch.Tensor:
        loss, stats = soft_cross_entropy_stats(z, **target, smoothing=0.1, z_loss=0.2, reduction=reduction)
        return loss.sum() + (getattr(stats, name).nan_to_num() * torch.arange(1, 8)).sum()

    assert torch.autograd.gradcheck(penalized, logits)
    _, stats = soft_cross_entropy_stats(logits, **target)
    alone = torch.autograd.grad(getattr(stats, name).nan_to_num().sum(), logits)[0]
    z = logits.detach().requires_grad_()
    lse, true = z.logsumexp(1), first.clamp(min=0)
    if name == "log_partition":
        torch.testing.assert_close(alone, torch.autograd.grad(lse.sum(), z)[0])
    elif name == "entropy":
        entropy = torch.distributions.Categorical(logits=z).entropy()
        torch.testing.assert_close(alone, torch.autograd.grad(entropy.sum(), z)[0])
    elif name == "margin" and kind == "index":
        assert torch.equal(alone[2], torch.zeros(6, dtype=torch.float64))
        assert torch.equal(alone.gather(1, true[:, None]).squeeze(1), torch.where(first >= 0, 1.0, 0.0).double())


def test_gradients_of_statistics_where_rows_are_ignored_tied_or_infinite(backend):
    logits = torch.tensor([[2.0, 2.0, 1.0], [math.nan] * 3, [0.5, -math.inf, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    first = torch.tensor([1, -100, 1, -100])
    loss, stats = soft_cross_entropy_stats(logits, first, index_target=True, reduction="sum")
    (margin,) = torch.autograd.grad(stats.margin[[0, 2]].sum(), logits, retain_graph=True)
    assert margin.tolist() == [[-1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]  # a tie: the lowest other; -inf: none
    (lse,) = torch.autograd.grad(stats.log_partition[[0, 2, 3]].sum(), logits, retain_graph=True)
    torch.testing.assert_close(lse[[0, 2, 3]], logits.detach()[[0, 2, 3]].softmax(1))
    assert lse[1].eq(0).all()  # ignored, and nothing asked of it
    (both,) = torch.autograd.grad(stats.entropy[3] + stats.loss[0] + 0 * loss.nan_to_num(posinf=0.0), logits)
    assert both[1].eq(0).all() and both[3].ne(0).all() and both.isfinite().all()


def test_loss_gradient_beside_the_statistics(backend):
    logits, first, second, features, centers = batch(9, 7, 4)
    logits.requires_grad_()
    for reduction in ("mean", "sum", "none"):
        loss, _ = soft_cross_entropy_stats(
            logits, first, second, 0.3, features=features, centers=centers, reduction=reduction
        )
        plain = soft_cross_entropy(logits, first, second, 0.3, reduction=reduction)
        torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits), torch.autograd.grad(plain.sum(), logits))


def test_empty_batch(backend):
    loss, stats = soft_cross_entropy_stats(
        torch.empty(0, 5), torch.empty(0, dtype=torch.int64), features=torch.empty(0, 3), centers=torch.ones(5, 3)
    )
    assert loss.isnan() and all(value.shape == (0,) for value in stats)


def test_compiles_whole(backend):
    torch.compiler.reset()
    logits, first, _, features, centers = batch(8, 5, 4, torch.float32)
    features.requires_grad_()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(z, v):
        loss, stats = soft_cross_entropy_stats(z, first, features=v, centers=centers, feature_grad=True)
        return loss + stats.rms.mean(), stats.prediction

    def eager(z, v):
        loss, stats = soft_cross_entropy_stats(z, first, features=v, centers=centers, feature_grad=True)
        return loss + stats.rms.mean(), stats.prediction

    compiled, expected = step(logits, features), eager(logits, features)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(torch.autograd.grad(compiled[0], features), torch.autograd.grad(expected[0], features))


@pytest.mark.parametrize("classes", [5, 300])
def test_rows_without_softmax(backend, classes):
    check_rows_without_softmax(soft_cross_entropy_stats, classes)
