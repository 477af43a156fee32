"""FAB finds the exact minimal distances of linear models, in few evaluations, and its plane is the nearest one."""

import pytest
import torch
from torch import nn

from regfast.attacks.fab import FAB

DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}


def linear_problem(seed: int = 0, n: int = 24, classes: int = 6, gap: float = 1.0):
    """A linear classifier of (3, 8, 8) images near the box's middle, the labels it gives, and its weight.

    Its logits differ by about `gap`, which moves boundaries to about gap / 20 in l2.
    """
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 192, generator=draw)
    images = 0.5 + 0.02 * gap * torch.randn(n, 3, 8, 8, generator=draw)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).eval()
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.copy_(0.5 * gap * torch.randn(classes, generator=draw) - weight.sum(1) / 2)
    return model, images, model(images).argmax(1), weight


def exact_distances(model, images, labels, weight, norm: str) -> torch.Tensor:
    """(N, K) distance to each class's boundary; inf for the label's own."""
    with torch.no_grad():
        logits = model(images)
    gap = logits.gather(1, labels[:, None]) - logits
    length = (weight[labels][:, None] - weight[None]).norm(p=DUAL[norm], dim=2)
    return (gap / length).scatter(1, labels[:, None], torch.inf)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targets", [0, 5])
def test_finds_the_exact_distance_of_linear_models(norm, targets):
    model, images, labels, weight = linear_problem(gap=1.0 if norm == "l1" else 4.0)  # l1: one pixel has room for 0.4
    exact = exact_distances(model, images, labels, weight, norm).amin(1)
    result = FAB(norm, None, steps=30, targets=targets).run(model, images, labels)
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-3)).all()
    assert (result.distance <= exact * (1 + 1e-3)).all()
    assert (model(result.images).argmax(1) != labels).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_success_exactly_inside_eps(norm):
    model, images, labels, weight = linear_problem(1, n=60)
    exact = exact_distances(model, images, labels, weight, norm).amin(1)
    eps = exact.median().item() * 1.0001
    result = FAB(norm, eps, steps=30, targets=5).run(model, images, labels)
    clear = (exact / eps - 1).abs() > 0.01  # each move overshoots
    assert torch.equal(result.success[clear], exact[clear] < eps)
    assert (result.distance <= eps).all()
    assert torch.equal(result.images[~result.success], images[~result.success])


def test_one_gradient_a_move_and_early_leave():
    model, images, labels, weight = linear_problem(2)
    exact = exact_distances(model, images, labels, weight, "linf").amin(1)
    spent = FAB("linf", exact.max().item() * 2, steps=50, targets=2).run(model, images, labels)
    assert spent.success.all()
    assert (spent.gradients <= 2 * 3).all()  # a linear boundary is crossed at once
    robust = FAB("linf", exact.min().item() / 2, steps=50, targets=2).run(model, images, labels)
    assert robust.robust.all()
    assert (robust.gradients <= 2 * 51).all()
    assert (robust.queries <= 2 * 51 + 1).all()  # and one on the clean image; nothing is classified twice


def test_targets_are_ranked_by_the_clean_logits_and_bounded_by_the_classes():
    model, images, labels, _ = linear_problem(3, classes=4)
    logits = model(images)
    plan = FAB(targets=9, restarts=2).plan(model, images, labels, logits)
    assert plan.targets.shape == (24, 3)
    ranked = logits.scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)[:, :3]
    assert torch.equal(plan.targets, ranked)
    assert plan.gradients == plan.queries == 0
    assert FAB().plan(model, images, labels, logits) is None


@pytest.mark.parametrize("targets", [0, 3])
def test_reaches_the_classes_that_the_user_names(targets):
    model, images, labels, _ = linear_problem(4, classes=3)
    goal = (labels + 1) % 3
    result = FAB("l2", None, steps=60, targets=targets).run(model, images, labels, targets=goal)
    assert result.success.float().mean() > 0.9
    assert (model(result.images).argmax(1) == goal)[result.success].all()


def test_restarts_begin_elsewhere_and_do_not_hurt():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 5)).eval()
    images = torch.rand(12, 3, 8, 8)
    labels = model(images).argmax(1)
    once = FAB("l2", None, steps=15).run(model, images, labels)
    again = FAB("l2", None, steps=15, restarts=3).run(model, images, labels)
    assert (again.distance <= once.distance).all()
    assert (again.gradients == 3 * once.gradients).all()


def test_lanes_do_not_change_the_result():
    model, images, labels, _ = linear_problem(5, n=10)
    one = FAB("linf", None, steps=10, targets=2).run(model, images, labels, lanes=2, channels_last=False)
    many = FAB("linf", None, steps=10, targets=2).run(model, images, labels, lanes=10, channels_last=False)
    torch.testing.assert_close(one.images, many.images, rtol=0, atol=1e-6)


def test_bad_arguments():
    for wrong in ({"eta": 0.9}, {"beta": 1.5}, {"alpha_max": -0.1}, {"targets": -1}, {"restarts": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FAB(**wrong)
    with pytest.raises(ValueError, match="norm"):
        FAB("l0")
    with pytest.raises(ValueError, match="eps"):
        FAB(eps=-1.0)
