"""Each warning comes exactly where the result would mislead, and a sound set-up is silent."""

import warnings

import pytest
import torch
from torch import nn

from regfast.attacks import APGD, FGSM, PreparedModel, checks

IMAGES = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 4


def linear(classes: int = 4) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes)).eval()


def caught(model, images=IMAGES, gradients=True, losses=("ce",)) -> list[type]:
    with warnings.catch_warnings(record=True) as log:
        warnings.simplefilter("always")
        PreparedModel(model, images).check(images, LABELS, gradients=gradients, losses=losses)
    assert all(issubclass(w.category, UserWarning) and len(str(w.message)) > 40 for w in log)
    return [w.category for w in log]


def test_a_sound_model_is_silent():
    assert caught(linear()) == []
    assert caught(linear(), losses=("ce", "dlr", "margin")) == []
    assert caught(lambda x: x.flatten(1)[:, :5]) == []
    assert caught(linear(), images=IMAGES[:0]) == []


def test_train_mode():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Linear(48, 4)).train()
    mean = model[1].running_mean.clone()
    assert caught(model) == [checks.TrainModeWarning]
    assert all(m.training for m in model.modules())
    assert torch.equal(model[1].running_mean, mean)


def test_random_output():
    assert caught(lambda x: x.flatten(1)[:, :4] + 0.01 * torch.rand(len(x), 4)) == [checks.RandomizedOutputWarning]


def test_softmax_output():
    assert caught(nn.Sequential(linear(), nn.Softmax(1)).eval()) == [checks.ProbabilityOutputWarning]
    assert caught(lambda x: x.flatten(1)[:, :4].abs()) == []


def test_zero_gradients():
    class Rounded(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :4].round() * 3 + 0 * x.sum()

    assert caught(Rounded().eval()) == [checks.ZeroGradientWarning]
    assert caught(Rounded().eval(), gradients=False) == []

    def saturated(x):  # cross-entropy underflows to zero, the margin does not
        return nn.functional.one_hot(LABELS[: len(x)], 4) * 1e4 + x.flatten(1)[:, :4]

    assert caught(saturated, losses=("ce",)) == [checks.ZeroGradientWarning]
    assert caught(saturated, losses=("margin",)) == []


@pytest.mark.parametrize("classes, losses, expected", [(2, ("dlr",), True), (2, ("ce",), False), (3, ("dlr",), False)])
def test_few_classes(classes, losses, expected):
    with warnings.catch_warnings(record=True) as log:
        warnings.simplefilter("always")
        PreparedModel(linear(classes), IMAGES).check(IMAGES, LABELS % classes, gradients=True, losses=losses)
    assert [w.category for w in log] == [checks.FewClassesWarning] * expected


def test_logits_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(B, K\)"):
        caught(lambda x: x)


def test_a_warning_points_at_the_users_line():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    with pytest.warns(checks.TrainModeWarning) as caught:
        FGSM("linf", 0.1).run(model, torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))
    assert caught[0].filename == __file__


def test_an_attack_that_averages_expects_random_answers():
    class Noisy(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :5] * 3 + 0.1 * torch.randn(len(images), 5)

    model, images = Noisy().eval(), torch.rand(4, 3, 2, 2)
    labels = images.flatten(1)[:, :5].argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", checks.RandomizedOutputWarning)
        APGD("linf", 0.1, steps=2, samples=2).run(model, images, labels)
    with pytest.warns(checks.RandomizedOutputWarning):
        APGD("linf", 0.1, steps=2).run(model, images, labels)


@pytest.mark.parametrize("native", [True, False])
def test_emulated_bf16_is_named(native, monkeypatch):
    monkeypatch.setattr(checks.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    with warnings.catch_warnings(record=True) as log:
        warnings.simplefilter("always")
        PreparedModel(linear(), IMAGES, precision="bf16")
        PreparedModel(linear(), IMAGES)
    slow = [w for w in log if issubclass(w.category, checks.SlowPrecisionWarning)]
    assert len(slow) == (not native) and all("slower than" in str(w.message) for w in slow)
