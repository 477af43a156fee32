"""What an attack answers is true: of random models, of images in other ranges, of any radius, of its own success."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from regfast.attacks import APGD, FAB, PGD, AutoAttack, Square, checks
from tests.attacks.problems import Linear, curved, linear


class Noisy(nn.Module):
    """Logits with Gaussian noise, from a generator of its own."""

    def __init__(self, model, sigma):
        super().__init__()
        self.model, self.sigma, self.draw = model, sigma, torch.Generator().manual_seed(0)

    def forward(self, images):
        logits = self.model(images)
        return logits + self.sigma * torch.randn(logits.shape, generator=self.draw)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_model_is_not_broken_by_luck(norm):
    model, images, labels = linear(5, count=200)
    gaps = model(images).topk(2, dim=1).values
    noisy = Noisy(model, float((gaps[:, 0] - gaps[:, 1]).median()))  # a single answer is often wrong
    result = AutoAttack(norm, 0.0, "rand").run(noisy, images, labels)
    assert 0.5 < result.clean.float().mean() < 1
    assert not result.success.any()


def test_a_random_model_falls_where_its_mean_does():
    model, images, labels = linear(5, count=200)
    exact = model.distance(images, "linf")
    gaps = model(images).topk(2, dim=1).values
    noisy = Noisy(model, 0.1 * float((gaps[:, 0] - gaps[:, 1]).median()))
    eps = exact.median().item()
    result = AutoAttack("linf", eps, "rand").run(noisy, images, labels)
    # The mean answer is the linear model's: robust are those whose boundary lies beyond eps.
    assert abs(result.robust.float().mean() - (exact > eps).float().mean()) <= 0.02
    assert not result.success[exact > 1.05 * eps].any()


def test_one_lucky_answer_is_asked_again():
    model, images, labels = linear(4, count=100)
    noisy = Noisy(model, float((model(images).topk(2, dim=1).values @ torch.tensor([1.0, -1.0])).median()) / 2)
    with pytest.warns(checks.RandomizedOutputWarning):
        result = PGD("linf", 0.0, 5).run(noisy, images, labels)
    assert (result.queries[result.success] >= 3).all()  # clean, searched, confirmed


def test_points_outside_of_ball_or_box_are_no_success():
    class Far(PGD):
        def advance(self, lanes, state, answer):
            lanes.point = lanes.image + 0.5

    class Out(PGD):
        def advance(self, lanes, state, answer):
            lanes.point = lanes.image * 0 + 1.2

    model, images, labels = linear(4)
    for attack in (Far("linf", 0.1, 3, random_start=False), Out("linf", 1.0, 3, random_start=False)):
        with pytest.warns(checks.OutsideWarning, match="left its ball or the box"):
            result = attack.run(model, images, labels)
        assert not result.success.any()


def test_targets_are_other_classes():
    model, images, labels = linear(4)
    targets = (labels + 1) % 4
    targets[5] = labels[5]
    with pytest.raises(ValueError, match="image 5 has its own label"):
        PGD().run(model, images, labels, targets=targets)
    with pytest.raises(IndexError, match="targets must be below 4"):
        PGD().run(model, images, labels, targets=labels * 0 + 4)


def test_rounding_outside_is_clamped_and_more_refused():
    model, images, labels = linear(4)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = -5e-7, 1 + 5e-7
    labels = model(images).argmax(1)
    result = PGD("linf", 0.001, 2).run(model, images, labels)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    images[2, 0, 0, 0] = 1.01
    with pytest.raises(ValueError, match=r"\[0, 1\].*normalized"):
        PGD().run(model, images, labels)


@pytest.mark.parametrize("attack", [PGD("l2", 0.05, 5), APGD("linf", 0.004, 8), Square("linf", 0.01, 40)], ids=str)
def test_bounds_attack_normalized_images_as_the_plain_ones(attack):
    model, images, labels = linear(4, count=40)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    low, high = (0 - mean) / std, (1 - mean) / std
    normalized = Says(model, mean.view(3, 1, 1), std.view(3, 1, 1))
    given = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    plain, scaled = attack.run(model, images, labels), attack.run(normalized, given, labels, bounds=(low, high))
    assert torch.equal(plain.success, scaled.success)
    assert plain.success.any()
    back = scaled.images * std.view(3, 1, 1) + mean.view(3, 1, 1)
    torch.testing.assert_close(back, plain.images, rtol=0, atol=2e-6)
    assert torch.equal(normalized(scaled.images).argmax(1) != labels, scaled.success)
    gray = attack.run(Says(model, -1.0, 2.0), (images + 1) / 2, labels, bounds=(0.5, 1.0))
    assert torch.equal(gray.success, plain.success)
    untouched = PGD("linf", 0.0, 1).run(normalized, given, labels, bounds=(low, high), targets=(labels + 1) % 4)
    assert torch.equal(untouched.images, given)  # to the last bit
    with pytest.raises(ValueError, match="bounds"):
        attack.run(model, images, labels, bounds=(1.0, 0.0))
    with pytest.raises(TypeError, match="bounds"):
        attack.run(model, images, labels, bounds=0.5)


class Says(nn.Module):
    """`model`, of images that come normalized."""

    def __init__(self, model, mean, std):
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, images):
        return self.model(images * self.std + self.mean)


ATTACKS = [PGD, APGD, Square, FAB]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("kind", ATTACKS)
def test_a_radius_for_each_sample(kind, norm):
    model, images, labels = curved()
    small, large = {"linf": (0.005, 0.03), "l2": (0.05, 0.3), "l1": (0.5, 4.0)}[norm]
    eps = torch.full((len(images),), small)
    eps[::2] = large
    mixed = kind(norm, eps, 10).run(model, images, labels, lanes=5)
    for rows, radius in ((slice(0, None, 2), large), (slice(1, None, 2), small)):
        alone = kind(norm, radius, 10).run(
            model, images[rows], labels[rows], lanes=5, sample_ids=torch.arange(len(images))[rows]
        )
        assert torch.equal(mixed.success[rows], alone.success)
        torch.testing.assert_close(mixed.images[rows], alone.images, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="eps must be a number"):
        kind(norm, eps[:5], 10).run(model, images, labels)


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_radius_for_each_channel_or_feature(kind):
    model, images, labels = curved()
    channel = torch.tensor([0.01, 0.02, 0.04]).view(3, 1, 1)
    for eps in (channel, channel.expand(3, 8, 8).clone(), channel.expand(24, 3, 8, 8).clone()):
        result = kind("linf", eps, 10).run(model, images, labels, lanes=5)
        delta = (result.images - images).abs()[result.success]
        assert len(delta)
        assert (delta <= channel + 1e-6).all()
    with pytest.raises(ValueError, match="goes with linf"):
        kind("l2", channel, 10).run(model, images, labels)


def test_a_radius_beyond_the_box_is_questioned():
    model, images, labels = linear(4)
    with pytest.warns(checks.EpsWarning, match="8/255"):
        PGD("linf", 8, 2).run(model, images, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error", checks.EpsWarning)
        PGD("l2", 8, 2).run(model, images, labels)


def test_tiny_gradients_point_somewhere():
    """The loss of a confident model, 1e-25 of another's, has the same direction."""
    model, images, labels = linear(4, count=40)

    class Tiny(Linear):
        def forward(self, images):
            logits = super().forward(images)
            return logits.detach() + (logits - logits.detach()) * 1e-25

    tiny = Tiny(model.weight.detach(), model.bias.detach()).eval()
    for attack in (PGD("l2", 0.02, 5), APGD("l2", 0.02, 8), PGD("l2", 0.02, 5, momentum=0.9)):
        plain = attack.run(model, images, labels)
        assert plain.success.any()
        assert torch.equal(attack.run(tiny, images, labels, channels_last=False).success, plain.success)


def test_shattered_gradients_are_named():
    model, images, labels = linear(4)

    def shattered(x):  # half a wave further than the slope says
        return model(x) + 30 * torch.sin(2000 * x.flatten(1)[:, :4])

    with pytest.warns(checks.ShatteredGradientWarning):
        PGD("linf", 0.01, 2).run(shattered, images, labels)


def test_masked_gradients_are_named():
    model, images, labels = linear(4, count=40)

    class Masked(Linear):
        def forward(self, images):
            logits = super().forward(images)
            return logits.detach() - 1e-3 * (logits - logits.detach())  # gradients point the wrong way

    masked = Masked(model.weight.detach(), model.bias.detach()).eval()
    with pytest.warns(checks.MaskedGradientWarning, match="square"), warnings.catch_warnings():
        warnings.simplefilter("ignore", checks.ShatteredGradientWarning)
        AutoAttack("linf", 0.001, "fast").run(masked, images, labels)


@pytest.mark.parametrize("first", [2, 7])
def test_last_stages_that_break_samples_late_are_named(first):
    class Waits(PGD):
        def hit(self, lanes, state, answer):
            return lanes.step >= first

    class Both(AutoAttack):
        def stages(self):
            return [PGD("linf", 0.0, 1), Waits("linf", 0.5, 9, random_start=False)]

    model, images, labels = linear(4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = Both("linf", 0.5).run(model, images, labels)
    assert result.success.all() and torch.equal(result.late, torch.full_like(result.success, first > 5))
    assert any(warning.category is checks.UnsettledWarning for warning in told) == (first > 5)


def test_numbers_of_other_kinds_and_no_numbers():
    assert PGD("linf", np.float32(0.125), np.int64(3)).eps == 0.125
    assert PGD("linf", torch.tensor(0.25), torch.tensor(3)).steps == 3
    for wrong in ({"eps": float("nan")}, {"eps": torch.tensor([float("inf")])}, {"momentum": float("nan")},
                  {"momentum": float("inf")}, {"step_size": float("inf")}, {"steps": 2.5}, {"steps": True},
                  {"eps": "8/255"}, {"norm": 2}, {"norm": float("inf")}, {"norm": nn.Identity()}):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            PGD(**wrong)


def test_an_empty_stage_asks_nothing():
    model, images, labels = linear(4)

    def views(x):
        return model(x.view(x.shape[0], -1).view_as(x))

    assert AutoAttack("linf", 0.5, "fast").run(views, images, labels).success.all()
    wrong = (labels + 1) % 4
    result = APGD("linf", 0.1, 3, loss="dlr", targets=2, target_order="malt").run(views, images, wrong)
    assert (result.queries == 1).all()
