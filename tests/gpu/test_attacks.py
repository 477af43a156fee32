"""The kernels of attacks on the device: the reference's answers, and the very bits where nothing is summed."""

from __future__ import annotations

import pytest
import torch

from regfast.ops import lanes
from regfast.ops.boundary import boundary_step
from regfast.ops.feature_attack import feature_attack
from regfast.ops.objective import KINDS, objective
from regfast.ops.perturbation import l1_box_projection, perturb_step, random_start
from regfast.ops.philox import normal, uniform
from regfast.ops.reference import lanes as reference_lanes
from regfast.ops.reference import objective as reference_objective
from regfast.ops.reference import perturbation as reference
from regfast.ops.reference import philox as reference_philox
from regfast.ops.reference.boundary import boundary_step as reference_boundary_step
from regfast.ops.reference.feature_attack import feature_attack as reference_feature_attack
from regfast.ops.reference.squares import repaint as reference_repaint
from regfast.ops.squares import repaint
from tests.ops import oracle
from tests.ops.triton_inputs import labels, logits

SHAPES = [(5, 3, 32, 32), (1, 3, 224, 224), (3, 1, 7, 11), (2, 1), (0, 4), (130, 33)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [1, 2, 4, 10, 1000, 1003, 16384, 21841])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_objectives(gpu_backend, kind, classes, dtype):
    if classes < KINDS[kind]:
        pytest.skip("too few classes")
    rows = 67 if classes < 5000 else 5
    z, first = logits(rows, classes, dtype).cuda(), labels(rows, classes).cuda()
    targets = labels(rows, classes, 1).cuda()
    found, right = objective(z, first, kind, targets), reference_objective.objective(z.double(), first, kind, targets)
    assert torch.equal(found.prediction, right.prediction)
    torch.testing.assert_close(found.loss.double(), right.loss, rtol=1e-5, atol=1e-5)
    if dtype == torch.float32:
        torch.testing.assert_close(found.gradient.double(), right.gradient, rtol=1e-4, atol=1e-5)
    else:
        assert oracle.within_an_ulp(found.gradient, right.gradient) > 0.999


def test_objectives_of_bad_labels_are_nan(gpu_backend):
    first = torch.tensor([0, -1, 5, 1 << 40], device="cuda")
    found = objective(logits(4, 5).cuda(), first, "dlr")
    assert found.loss.isnan().tolist() == [False, True, True, True]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steps(gpu_backend, shape, norm):
    clean = torch.rand(shape, device="cuda")
    point, before = ((clean + 0.05 * torch.randn_like(clean)).clamp(0, 1) for _ in range(2))
    gradient = torch.randn_like(clean)
    eps = torch.rand(shape[0], device="cuda") * {"linf": 0.1, "l2": 2.0, "l1": 12.0}[norm]
    size = torch.rand(shape[0], device="cuda") * 0.5 * eps
    for previous in (None, before):
        arguments = {"previous": previous, "momentum": 0.75, "sparsity": torch.full_like(eps, 0.2)}
        found = perturb_step(point, gradient, clean, eps, size, norm, **arguments)
        right = reference.perturb_step(point, gradient, clean, eps, size, norm, **arguments)
        if norm == "linf":
            assert torch.equal(found, right)
        else:
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("start", ["sphere", "ball"])
def test_random_starts(gpu_backend, shape, norm, start):
    clean = torch.rand(shape, device="cuda")
    eps, sample = torch.rand(shape[0], device="cuda"), torch.arange(shape[0], device="cuda") + (1 << 33)
    arguments = (clean, eps, norm, (1 << 63) + 3, sample, 3, sample % 7, sample % 5)
    found, right = random_start(*arguments, start=start), reference.random_start(*arguments, start=start)
    if norm == "linf":
        assert torch.equal(found, right)
    else:
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_l1_projection(gpu_backend):
    clean, delta = torch.rand(6, 3072), torch.randn(6, 3072)
    for eps in (0.0, 0.5, 12.0, 1e6):
        found = l1_box_projection(clean.cuda(), delta.cuda(), eps).cpu()
        right = oracle.l1_box(clean, delta, torch.full((6,), eps))
        torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [0, (1 << 31) + 1, (1 << 33) + 5, (1 << 64) - 1])
def test_random_numbers_are_the_references(seed):
    sample = torch.tensor([0, 1, 5, (1 << 40) + 7, (1 << 62) + 12345])
    restart, step = torch.tensor([0, 1, 2, 3, (1 << 24) - 1]), torch.tensor([0, 7, (1 << 32) - 1, 3, 4])
    for count in (0, 1, 5, 1025, 150528):
        for ours, right in ((uniform, reference_philox.uniform), (normal, reference_philox.normal)):
            found = ours(seed, sample.cuda(), 127, restart.cuda(), step.cuda(), count)
            assert torch.equal(found.cpu(), right(seed, sample, 127, restart, step, count))


@pytest.mark.parametrize("linf", [False, True])
@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize(("classes", "width"), [(2, 1), (10, 512), (100, 200)])
def test_attacks_on_features(classes, width, margin, linf):
    weight = torch.randn(classes, width, dtype=torch.float64)
    z = torch.randn(50, width, dtype=torch.float64) @ weight.T
    first = z.argmax(1)
    first[:5] = (first[:5] + 1) % classes  # lost from the start
    eps = torch.rand(50, dtype=torch.float64) * width**0.5 / 4
    arguments = [tensor.cuda() for tensor in (z, weight, first, eps, eps / 3)]
    found = feature_attack(*arguments, 7, linf=linf, margin=margin)
    right = reference_feature_attack(*arguments, 7, linf=linf, margin=margin)
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-10)
    assert found[:5].eq(0).all()


def test_bookkeeping_is_the_references():
    count, ends = 40, torch.tensor([0, 0, 2, 0, 1, 0, 0, 0.0]).cuda()
    point, gradient, best, slope = torch.rand(4, count, 3, 32, 32, device="cuda")
    loss, size, most, last, checked = torch.randn(5, count, device="cuda")
    step, flags = torch.arange(count, device="cuda") % 7, torch.rand(count, device="cuda") < 0.5
    found, right = (
        module.ascend(
            point, gradient, loss, step, best.clone(), slope.clone(), size, most, last, step.float(), checked, flags,
            ends, 0.1, 0.75,
        )
        for module in (lanes, reference_lanes)
    )  # fmt: skip
    for ours, theirs in zip(found, right, strict=True):
        assert torch.equal(ours, theirs)
    z = torch.randn(count, 1003, device="cuda")
    z[3, 7] = torch.nan
    assert torch.equal(lanes.predicted(z), reference_lanes.predicted(z))
    small = gradient * 2.0 ** torch.randint(-160, 100, (count, 1, 1, 1), device="cuda")
    assert torch.equal(lanes.near_one(small), reference_lanes.near_one(small))
    kept = [[best.clone(), most.clone(), step.clone()] for _ in range(2)]
    found, right = (
        module.judge(point, loss, step % 3, step % 2, step, flags, None, *mine, reach=False, steps=5)
        for module, mine in zip((lanes, reference_lanes), kept, strict=True)
    )
    for ours, theirs in zip((*found, *kept[0]), (*right, *kept[1]), strict=True):
        assert torch.equal(ours, theirs)


def test_moves_over_the_boundary_are_the_references():
    point, image, slope = torch.rand(3, 40, 3, 32, 32, device="cuda")
    rise, across = torch.randn(40, device="cuda"), torch.rand(40, device="cuda") < 0.5
    for norm in ("linf", "l2", "l1"):
        for eta in (1.05, 1 + 0.05 * torch.rand(40, device="cuda")):
            found, right = (
                step(point, image, rise, slope - 0.5, across, eta, 0.1, 0.9, norm)
                for step in (boundary_step, reference_boundary_step)
            )
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_squares_are_the_references():
    best, image = torch.rand(2, 40, 3, 32, 32, device="cuda")
    draws, side = torch.rand(40, 5, device="cuda"), torch.randint(1, 33, (40,), device="cuda")
    for eps in (0.1, torch.rand(40, device="cuda"), torch.rand(40, 3, 32, 32, device="cuda")):
        assert torch.equal(repaint(best, image, draws, side, eps), reference_repaint(best, image, draws, side, eps))


def test_in_one_graph_and_in_a_cuda_graph(gpu_backend):
    def attack(z, first, point, clean, sample):
        answer = objective(z, first, "dlr")
        moved = perturb_step(point, answer.gradient, clean, 0.1, 0.02, "l2")
        start = random_start(clean, 0.1, "linf", 7, sample, 0, torch.zeros_like(sample), sample)
        return answer.loss, moved, start

    arguments = (logits(5, 8).cuda(), labels(5, 8).cuda(), *torch.rand(2, 5, 8, device="cuda"), torch.arange(5).cuda())
    right = attack(*arguments)
    torch._dynamo.reset()
    for a, b in zip(right, torch.compile(attack, fullgraph=True)(*arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        attack(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = attack(*arguments)
    graph.replay()
    for a, b in zip(right, found, strict=True):
        assert torch.equal(a, b)
