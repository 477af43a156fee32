"""APGD against the paper's rules, and against linear models where success is known."""

import pytest
import torch

from regfast.attacks import APGD
from regfast.attacks.apgd import Ascent
from regfast.attacks.norms import NORMS
from regfast.attacks.target_order import by_rank, malt
from tests.attacks.problems import curved, linear


def test_checkpoints_are_the_references():
    ends = Ascent(NORMS["linf"], 100).ends
    assert ends.nonzero().squeeze(1).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]
    assert Ascent(NORMS["linf"], 5).ends.nonzero().squeeze(1).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["dlr", "margin"])
@pytest.mark.parametrize("targets", [0, 3])
def test_succeeds_exactly_above_the_distance(norm, loss, targets):
    model, images, labels = linear(4, count=6)
    exact = model.distance(images, norm)
    # The l1 rule may stop short of the one best entry: it needs some room.
    for factor, expected in ((0.99, 0), (1.25 if norm == "l1" else 1.02, 1)):
        for row in range(len(images)):
            attack = APGD(norm, factor * exact[row].item(), loss=loss, targets=targets)
            one = slice(row, row + 1)
            result = attack.run(model, images[one], labels[one])
            assert result.success.sum() == expected, (row, factor)
            assert result.distance.max() <= attack.eps + 1e-6


def by_the_book(model, image, label, start, eps, steps, norm):
    """APGD for one image, written out as in the reference: loops and Python numbers."""

    def ask(x):
        x = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(x), label)
        return loss.item(), torch.autograd.grad(loss, x)[0]

    def project(x):
        d = x - image
        if norm == "linf":
            d = d.clamp(-eps, eps)
        else:
            d = d * min(1.0, eps / (d.norm().item() + 1e-12))
        return (image + d).clamp(0, 1)

    x = previous = best = start
    loss, gradient = ask(x)
    best_loss, best_gradient, losses, size = loss, gradient, [], 2 * eps
    checked_loss, halved, since, interval = best_loss, True, 0, max(int(0.22 * steps), 1)
    points = [x]
    for i in range(steps):
        a = 1.0 if i == 0 else 0.75
        way = gradient.sign() if norm == "linf" else gradient / (gradient.norm() + 1e-12)
        z = project(x + size * way)
        x, previous = project(x + a * (z - x) + (1 - a) * (x - previous)), x
        points.append(x)
        loss, gradient = ask(x)
        losses.append(loss)
        if loss > best_loss:
            best, best_loss, best_gradient = x, loss, gradient
        since += 1
        if since == interval:
            rises = sum(losses[j] > (losses[j - 1] if j else 0.0) for j in range(i - interval + 1, i + 1))
            reduce = rises <= 0.75 * interval or (not halved and checked_loss >= best_loss)
            halved, checked_loss = reduce, best_loss
            if reduce:
                size, x, gradient = size / 2, best, best_gradient
            interval, since = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)), 0
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_point_is_the_papers(norm):
    model, images, labels = curved(8)
    right = model(images).argmax(1) == labels
    images, labels = images[right][:3], labels[right][:3]
    eps = 1e-3 if norm == "linf" else 5e-3  # too small to break any: all moves are made
    points = []

    class Recorded(APGD):
        def objective(self, lanes, state, logits):
            points.append(lanes.point.clone())
            return super().objective(lanes, state, logits)

    result = Recorded(norm, eps, 40).run(model, images, labels, seed=9)
    assert not result.success.any()
    points = points[-41:]
    for row in range(3):
        one = slice(row, row + 1)
        expected = by_the_book(model, images[one], labels[one], points[0][one], eps, 40, norm)
        # Signs of gradients that are nearly 0 may differ in a few entries: compare most of them.
        for got, want in zip(points, expected, strict=True):
            assert ((got[one] - want).abs() <= 1e-5).float().mean() > 0.97


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_starts_fill_the_ball(norm):
    model, images, labels = curved(6)
    points = []

    class Recorded(APGD):
        def start(self, lanes, state, fresh):
            super().start(lanes, state, fresh)
            points.append((lanes.image[fresh].clone(), lanes.point[fresh].clone()))

    eps = {"linf": 0.05, "l2": 0.3, "l1": 2.0}[norm]
    Recorded(norm, eps, 4, larger_eps=False).run(model, 0.3 + 0.4 * images, labels)
    for image, point in points:
        torch.testing.assert_close(
            NORMS[norm].distance(point - image), torch.full((len(image),), eps), rtol=1e-4, atol=0
        )


def test_larger_eps_begins_in_wider_balls_and_ends_in_its_own():
    model, images, labels = curved(6)
    right = model(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    seen = []

    class Recorded(APGD):
        def advance(self, lanes, state, answer):
            seen.append((self.norm.distance(lanes.point - lanes.image), self.hit(lanes, state, answer).clone()))
            super().advance(lanes, state, answer)

    attack = Recorded("l1", 1e-3, 20)
    result = attack.run(model, images, labels)
    assert result.gradients[result.robust].min() >= 7 + 7 + 8
    radii = [distance.max().item() / 1e-3 for distance, _ in seen]
    assert max(radii[:7]) == pytest.approx(3, abs=0.2)
    assert max(radii[7:14]) == pytest.approx(2, abs=0.1)
    assert max(radii[14:]) <= 1.001
    assert [bool(counts.all()) for _, counts in seen] == [False] * 14 + [True] * (len(seen) - 14)


def test_targets_by_rank():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 1.0, 1.0]])
    assert by_rank(torch.tensor([0, 1]), logits).tolist() == [[2, 1, 3], [2, 3, 0]]
    assert by_rank(torch.tensor([2, 1]), logits)[0].tolist() == [0, 1, 3]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_malt_orders_by_the_exact_distance_on_linear_models(norm):
    model, images, labels = linear(6, count=9)
    logits = model(images).detach()
    plan = malt(by_rank(labels, logits), 3, NORMS[norm], model, images, labels)
    gap = logits.gather(1, labels.unsqueeze(1)) - logits
    slopes = (model.weight[labels].unsqueeze(1) - model.weight).detach()
    dual = {"linf": slopes.abs().sum(2), "l2": slopes.norm(dim=2), "l1": slopes.abs().amax(2)}[norm]
    far = (gap / dual).scatter(1, labels.unsqueeze(1), torch.inf)
    assert torch.equal(plan.targets, far.argsort(1)[:, :3])
    assert plan.gradients == 5


def test_fewer_classes_than_targets():
    model, images, labels = linear(3, count=8)
    eps = 1.05 * model.distance(images, "linf").max().item()
    assert APGD(eps=eps, loss="dlr", targets=9).run(model, images, labels).success.all()
    model, images, labels = linear(2, count=8)
    eps = 1.05 * model.distance(images, "linf").max().item()
    for attack in (APGD(eps=eps, loss="dlr"), APGD(eps=eps, loss="dlr", targets=9)):
        with pytest.warns(UserWarning, match="classes"):
            assert attack.run(model, images, labels).success.all()


def test_gradients_are_averaged_over_samples():
    model, images, labels = linear(3, count=6)
    calls = []

    def noisy(x):
        if x.requires_grad:
            calls.append(len(x))
        return model(x)

    one = APGD(eps=1e-4, steps=5).run(noisy, images, labels)
    few = len(calls)
    calls.clear()
    four = APGD(eps=1e-4, steps=5, samples=4).run(noisy, images, labels)
    assert torch.equal(one.images, four.images)
    assert torch.equal(4 * one.gradients, four.gradients)
    assert len(calls) > 3 * few


@pytest.mark.parametrize("options", [{"loss": "hinge"}, {"targets": -1}, {"target_order": "best"}, {"samples": 0}])
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        APGD(**options)
