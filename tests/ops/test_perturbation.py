from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from regfast.ops.perturbation import l1_box_projection, perturb_step, random_start
from tests.ops import oracle
from tests.ops.backends import on_cpu

ORDERS = {"linf": math.inf, "l2": 2, "l1": 1}
steps = on_cpu("perturbation", "perturb_step")
starts = on_cpu("perturbation", "random_start")
projections = on_cpu("perturbation", "l1_box_projection")


def size(delta: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1), ord=ORDERS[norm], dim=1)


def images(rows: int = 6) -> Tensor:
    clean = torch.rand(rows, 3, 5, 7)
    clean[:, 0] = (clean[:, 0] > 0.5).float()  # entries on the box's edges
    return clean


def column(values: float | Tensor) -> float | Tensor:
    return values.view(-1, 1, 1, 1) if isinstance(values, Tensor) else values


def projected(point: Tensor, clean: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    eps = column(eps)
    delta = point - clean
    if norm == "linf":
        return (
            clean + delta.clamp(-eps, eps) if not isinstance(eps, Tensor) else clean + delta.maximum(-eps).minimum(eps)
        ).clamp(0, 1)
    length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (clean + delta * torch.clamp(eps / length.clamp(min=1e-12), max=1)).clamp(0, 1)


@steps
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.75])
def test_step_is_the_formula(backend, norm, per_sample, momentum):
    clean = images()
    eps = torch.linspace(0.02, 0.2, 6) if per_sample else 0.1
    step = torch.linspace(0.1, 0.01, 6) if per_sample else 0.04
    point = projected(clean + 0.1 * torch.randn_like(clean), clean, eps, norm)
    previous = projected(clean + 0.1 * torch.randn_like(clean), clean, eps, norm)
    gradient = torch.randn_like(clean)
    way = gradient.sign() if norm == "linf" else gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = projected(point + column(step) * way, clean, eps, norm)
    share: float | Tensor = 1.0
    if momentum is not None:
        share = torch.full((6,), momentum) if per_sample else momentum
        if isinstance(share, Tensor):
            share[2] = 1.0  # a lane in its first step
        part = column(share)
        expected = projected(point + part * (expected - point) + (1 - part) * (point - previous), clean, eps, norm)
    before = point.clone()
    got = perturb_step(point, gradient, clean, eps, step, norm, None if momentum is None else previous, share)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    assert torch.equal(point, before) and got.data_ptr() != point.data_ptr()
    assert (size(got - clean, norm) <= torch.as_tensor(eps) + 1e-6).all()
    assert got.min() >= 0 and got.max() <= 1


@steps
def test_zero_gradient_stays(backend):
    clean = images()
    for norm in ORDERS:
        got = perturb_step(clean, torch.zeros_like(clean), clean, 0.1, 0.05, norm)
        torch.testing.assert_close(got, clean, rtol=0, atol=1e-7)


@steps
def test_l1_step_moves_the_largest_entries(backend):
    clean = torch.full((2, 1, 4, 5), 0.5)
    gradient = torch.randn(2, 1, 4, 5)
    share = torch.tensor([0.2, 0.5])
    got = perturb_step(clean, gradient, clean, 10.0, 0.4, "l1", sparsity=share)
    for row, count in ((0, 4), (1, 10)):
        moved = (got - clean)[row].flatten()
        largest = gradient[row].flatten().abs().topk(count).indices
        expected = torch.zeros(20)
        expected[largest] = 0.4 / count * gradient[row].flatten()[largest].sign()
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


@steps
@pytest.mark.parametrize("norm", ORDERS)
def test_step_climbs_a_linear_function_to_its_maximum_in_the_ball(backend, norm):
    clean, gradient = 0.5 + 0.1 * torch.rand(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    eps = 0.05
    point = clean
    for _ in range(50):
        point = perturb_step(point, gradient, clean, eps, eps / 2, norm, sparsity=1e-6)
    dual = {"linf": 1, "l2": 2, "l1": math.inf}[norm]
    gain = (gradient * (point - clean)).flatten(1).sum(1)
    torch.testing.assert_close(
        gain, eps * torch.linalg.vector_norm(gradient.flatten(1), ord=dual, dim=1), rtol=1e-4, atol=0
    )


@steps
def test_other_boxes_dtypes_and_strides(backend):
    clean = images().to(memory_format=torch.channels_last)
    gradient = torch.randn_like(clean).to(torch.bfloat16)
    for norm in ORDERS:
        got = perturb_step(clean, gradient, clean, 0.5, 0.5, norm, sparsity=0.3, lower=-1.0, upper=2.0)
        plain = perturb_step(
            clean.contiguous(),
            gradient.contiguous(),
            clean.contiguous(),
            0.5,
            0.5,
            norm,
            sparsity=0.3,
            lower=-1.0,
            upper=2.0,
        )
        torch.testing.assert_close(got, plain, rtol=0, atol=1e-6)
        assert (size(got - clean, norm) <= 0.5 + 1e-5).all()
    with pytest.raises(ValueError, match="norm must be one of"):
        perturb_step(clean, gradient, clean, 0.1, 0.1, "l0")


@steps
def test_empty(backend):
    nothing = torch.empty(0, 3, 4, 4)
    for norm in ORDERS:
        assert perturb_step(nothing, nothing, nothing, 0.1, 0.1, norm).shape == (0, 3, 4, 4)


@starts
@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("start", ["sphere", "ball"])
def test_start_lies_in_ball_and_box(backend, norm, start):
    clean = images()
    eps = torch.linspace(0.01, 0.3, 6)
    point = random_start(clean, eps, norm, 7, torch.arange(6), stage=2, restart=1, start=start)
    distance = size(point - clean, norm)
    assert (distance <= eps + 1e-5).all() and (distance > 0).all()
    assert point.min() >= 0 and point.max() <= 1
    inner = torch.full_like(clean, 0.5)  # far from the box's edge, the sphere is reached
    point = random_start(inner, 0.1, norm, 7, torch.arange(6), start=start)
    distance = size(point - inner, norm)
    if start == "sphere" or norm == "l1":
        torch.testing.assert_close(distance, torch.full((6,), 0.1), rtol=1e-4, atol=1e-6)
    elif norm == "l2":
        assert distance.max() < 0.1 and distance.std() > 1e-3


@starts
@pytest.mark.parametrize("norm", ORDERS)
def test_start_depends_on_the_sample_not_on_the_batch(backend, norm):
    clean, ids = images(), torch.tensor([5, 2**33 + 1, 0, 9, 4, 7])
    restart, step = torch.tensor([0, 1, 0, 2, 0, 0]), torch.tensor([3, 0, 0, 1, 0, 0])
    all_rows = random_start(clean, 0.1, norm, 123456789012, ids, 1, restart, step)
    for row in range(6):
        one = random_start(
            clean[row : row + 1], 0.1, norm, 123456789012, ids[row : row + 1], 1, int(restart[row]), int(step[row])
        )
        torch.testing.assert_close(one, all_rows[row : row + 1], rtol=0, atol=1e-6)
    again = random_start(clean, 0.1, norm, 123456789013, ids, 1, restart, step)
    assert not torch.equal(again, all_rows)


@starts
def test_unknown_start(backend):
    with pytest.raises(ValueError, match="start must be"):
        random_start(images(), 0.1, "linf", 0, torch.arange(6), start="cube")


@projections
@pytest.mark.parametrize("scale", [0.01, 0.5, 3.0])
def test_l1_projection_is_the_nearest_point(backend, scale):
    clean = images(8).flatten(1)
    clean[0] = 1.0
    delta = scale * torch.randn_like(clean)
    eps = torch.linspace(0.0, 12.0, 8)
    got = l1_box_projection(clean, delta, eps)
    torch.testing.assert_close(got.double(), oracle.l1_box(clean, delta, eps), rtol=0, atol=3e-5)
    assert (got.abs().sum(1) <= eps + 1e-4).all()
    assert (clean + got).min() >= -1e-6 and (clean + got).max() <= 1 + 1e-6


@projections
def test_l1_projection_of_a_point_inside_is_itself(backend):
    clean = torch.full((3, 2, 4), 0.5)
    delta = 0.01 * torch.randn(3, 2, 4)
    torch.testing.assert_close(l1_box_projection(clean, delta, 1.0), delta, rtol=0, atol=1e-6)
    assert l1_box_projection(clean, delta, 0.0).abs().max() < 1e-6


def test_what_does_not_fit_is_named():
    point = torch.rand(4, 3)
    for name in ("gradient", "clean", "previous"):
        tensors = {"gradient": point, "clean": point, "previous": point, name: point[:2]}
        with pytest.raises(ValueError, match=rf"{name} must have the shape \(4, 3\), got \(2, 3\)"):
            perturb_step(point, eps=0.1, step=0.1, norm="l2", **tensors)
    for name in ("eps", "step", "momentum", "sparsity"):
        numbers = {"eps": 0.1, "step": 0.1, name: torch.rand(3)}
        with pytest.raises(ValueError, match=rf"{name} must be a number or \(4,\), one for each row, got \(3,\)"):
            perturb_step(point, point, point, norm="linf", **numbers)
    with pytest.raises(ValueError, match=r"delta must have the shape \(4, 3\)"):
        l1_box_projection(point, point[:, :2], 0.1)
    with pytest.raises(ValueError, match=r"sample must be \(4,\), one id for each row of clean, got \(3,\)"):
        random_start(point, 0.1, "linf", 1, torch.arange(3))
    with pytest.raises(ValueError, match=r"seed must lie in \[0, 2\^64\), got -1"):
        random_start(point, 0.1, "linf", -1, torch.arange(4))
    with pytest.raises(ValueError, match="restart must be an int or have one value a sample"):
        random_start(point, 0.1, "linf", 1, torch.arange(4), restart=torch.arange(2))
