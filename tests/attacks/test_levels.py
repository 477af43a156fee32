"""Minimal-norm attacks whose points an 8-bit file can hold."""

import pytest
import torch

from regfast.attacks import DDN, FAB, FMN, CarliniWagner
from tests.attacks.problems import curved

ATTACKS = [
    DDN(steps=100, levels=256),
    FMN("linf", steps=100, levels=256),
    FMN("l2", steps=100, levels=256),
    FAB("linf", None, steps=40, targets=2, levels=256),
    FAB("l2", None, steps=40, levels=256),
    CarliniWagner(steps=60, searches=5, levels=256),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.name}-{attack.norm.name}")
def test_what_is_found_lies_on_the_levels_and_is_wrong_there(attack):
    model, images, _ = curved(1)
    images = (images * 255).round() / 255
    labels = model(images).argmax(1)
    result = attack.run(model, images, labels)
    free = type(attack)(**{**attack.options, "levels": None}).run(model, images, labels)
    assert bool(result.success.all()) and bool(free.success.all())
    torch.testing.assert_close(result.images * 255, (result.images * 255).round(), rtol=0, atol=1e-4)
    assert bool((model(result.images).argmax(1) != labels).all())
    torch.testing.assert_close(result.distance, attack.norm.distance(result.images - images), rtol=1e-5, atol=1e-7)
    # Rounding moves a point by half a level a pixel: it cannot cost much more than that.
    half = attack.norm.distance(torch.full_like(images, 0.5 / 255))
    assert bool((result.distance <= free.distance * 1.1 + 2 * half).all())


def test_with_eps_the_rounded_point_lies_inside():
    model, images, _ = curved(2)
    images = (images * 255).round() / 255
    labels = model(images).argmax(1)
    result = FMN("linf", 6 / 255, steps=50, levels=256).run(model, images, labels)
    assert bool(result.success.any()) and bool((result.distance[result.success] <= 6 / 255 * (1 + 1e-5)).all())


@pytest.mark.parametrize(
    "attack", [FMN("linf", 2 / 255, 30, levels=256), FAB("linf", 2 / 255, 10, levels=256)], ids=str
)
def test_an_eps_of_whole_levels_holds_points_on_its_edge(attack):
    model, images, _ = curved()
    images = (images * 255).round() / 255  # 3 / 255 - 1 / 255 is more than 2 / 255 in float32
    labels = model(images).argmax(1)
    found, larger = (attack.at(eps).run(model, images, labels).success for eps in (2 / 255, 2.01 / 255))
    assert torch.equal(found, larger)
    assert bool(found.any())


@pytest.mark.parametrize("kind", [DDN, FMN, FAB, CarliniWagner])
def test_levels_are_at_least_two(kind):
    with pytest.raises(ValueError, match="levels must be an integer ≥ 2"):
        kind(levels=1)
