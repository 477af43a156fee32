import math

import pytest
import torch
from torch import nn

from regfast.training import RECIPES, Recipe
from regfast.training.augment import crop_and_flip
from regfast.training.recipe import stored_recipe


def test_rate_warms_up_and_falls_to_zero():
    recipe = Recipe(epochs=10, learning_rate=0.4, warmup=2)
    rates = [recipe.rate(step, 5) for step in range(50)]
    assert rates[:10] == sorted(rates[:10]) and rates[0] == pytest.approx(0.4 / 11)
    assert max(rates) == rates[10] == 0.4
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[30] == pytest.approx(0.2 * (1 + math.cos(math.pi * 20 / 40)))
    assert recipe.rate(50, 5) == pytest.approx(0, abs=1e-12)


def test_warm_up_never_takes_more_than_half():
    recipe = Recipe(epochs=1, warmup=5, learning_rate=1)
    assert max(recipe.rate(step, 10) for step in range(10)) > 0.8


def test_schedules():
    steps = Recipe(epochs=8, learning_rate=1.0, warmup=0, schedule="steps")
    assert [steps.rate(step, 3) for step in range(24)] == pytest.approx([1.0] * 12 + [0.1] * 6 + [0.01] * 6)
    linear = Recipe(epochs=10, learning_rate=1.0, warmup=2, schedule="linear")
    assert [linear.rate(step, 1) for step in range(10)] == pytest.approx([1 / 3, 2 / 3, *(1 - k / 8 for k in range(8))])


@pytest.mark.parametrize("name", RECIPES.names())
def test_recipes_by_name_are_stored_with_every_value(name):
    recipe = RECIPES.build(f"{name}:epochs=3,ema=0.9")
    assert recipe.epochs == 3 and recipe.ema == 0.9
    stored = recipe.as_dict()
    assert stored["name"] == name and set(stored) == {"name", *Recipe.__dataclass_fields__}
    assert stored_recipe(stored) == recipe


@pytest.mark.parametrize(("count", "size"), [(100, 32), (97, 32), (1, 32), (64, 64), (65, 64)])
def test_batches_cover_every_image_but_a_single_rest(count, size):
    recipe = Recipe(batch_size=size)
    batches = list(recipe.batches(count, torch.Generator().manual_seed(0)))
    seen = torch.cat(batches)
    assert len(seen.unique()) == len(seen) == count - (count % size == 1 and count > 1)
    assert len(batches) == recipe.steps(count)


def test_norms_and_biases_are_not_decayed():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    decayed, kept = Recipe(weight_decay=0.1).optimizer(network).param_groups
    assert [p.dim() for p in decayed["params"]] == [4, 2] and decayed["weight_decay"] == 0.1
    assert all(p.dim() == 1 for p in kept["params"]) and kept["weight_decay"] == 0


def test_crops_are_shifted_windows_and_mirrors():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 2, 6, 5, generator=generator)
    changed = crop_and_flip(images, generator, padding=1)
    padded = nn.functional.pad(images, (1,) * 4)
    mirrored = 0
    for image, result in zip(padded, changed, strict=True):
        windows = [image[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)]
        plain = any(torch.equal(result, window) for window in windows)
        flipped = any(torch.equal(result, window.flip(2)) for window in windows)
        assert plain or flipped
        mirrored += flipped
    assert 16 < mirrored < 48


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": -1.0},
        {"learning_rate": math.nan},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"epochs": "many"},
        {"schedule": "exponential"},
        {"precision": "int8"},
        {"ema": 1},
        {"compile": "yes"},
        {"accumulate": 33},
    ],
)
def test_values_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)
