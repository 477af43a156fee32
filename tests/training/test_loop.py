import pytest
import torch

from regfast.attacks import FGSM, PGD, Adversary
from regfast.data import ImageArray, Subset, load_splits
from regfast.models import load_model
from regfast.training import REGULARIZERS, Recipe, predict, train

# A teacher is needed for distillation; at its default temperature LogitNorm needs more than six epochs.
LEARNING = [name for name in REGULARIZERS.names() if name not in ("distillation", "logit-norm")]
LEARNING.append("logit-norm:temperature=0.2")


@pytest.fixture(scope="module")
def digits():
    splits = load_splits("digits")
    return Subset(splits.train, torch.arange(256)), splits.holdout


def run(digits, regularizer="hard", seed=0, adversary=None, **recipe):
    model = load_model("small-cnn", seed=0)
    rule, recipe = REGULARIZERS.build(regularizer), Recipe(**{"epochs": 2, **recipe})
    history = train(model, *digits, rule, recipe, seed=seed, adversary=adversary)
    return model, history


@pytest.mark.parametrize("regularizer", LEARNING)
def test_learns(digits, regularizer):
    model, history = run(digits, regularizer, epochs=6, batch_size=32)
    assert [epoch.epoch for epoch in history] == list(range(1, 7))
    assert history[-1].accuracy > 0.7
    assert history[-1].loss < history[0].loss
    assert not model.training
    for epoch in history:
        assert epoch.train_rms > 0 and -1 <= epoch.train_cosine <= 1
        assert epoch.rms > 0 and -1 <= epoch.cosine <= epoch.cosine_in_span <= 1


def test_same_seed_same_bits(digits):
    torch.manual_seed(1)
    one, first = run(digits, "mixup")
    torch.manual_seed(2)
    two, second = run(digits, "mixup")
    _, third = run(digits, "mixup", seed=1)
    assert first == second != third
    state = two.network_state()
    assert all(torch.equal(value, state[name]) for name, value in one.network_state().items())


def test_callers_random_state_is_left_alone(digits):
    torch.manual_seed(9)
    expected = torch.rand(2)
    torch.manual_seed(9)
    run(digits, epochs=1)
    assert torch.equal(torch.rand(2), expected)


def test_curves_are_of_held_out_images(digits):
    model, history = run(digits)
    features, logits, labels = predict(model, digits[1])
    assert history[-1].accuracy == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    assert history[-1].rms == pytest.approx(float(features.square().mean(1).sqrt().mean()), rel=1e-5)


def test_predict_does_not_depend_on_the_batch(digits):
    model = load_model("small-cnn", seed=0).train()
    whole, parts = predict(model, digits[1]), predict(model, digits[1], batch_size=13)
    assert model.training
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


def test_errors(digits):
    model = load_model("small-cnn", num_classes=3, seed=0)
    with pytest.raises(ValueError, match="10 classes, the model 3"):
        train(model, *digits, REGULARIZERS.build("hard"), Recipe(epochs=1), seed=0)
    empty = ImageArray(torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), "0123456789")
    with pytest.raises(ValueError, match="0 training"):
        train(load_model("small-cnn"), empty, digits[1], REGULARIZERS.build("hard"), Recipe(), seed=0)


def test_divergence_is_an_error(digits):
    with pytest.raises(RuntimeError, match="learning rate"):
        run(digits, learning_rate=1e9, warmup=0)


def test_an_adversary_makes_the_model_robust(digits):
    images, labels = digits[1].batch(torch.arange(len(digits[1]))), digits[1].labels
    adversary = Adversary(FGSM("linf", 0.15, random_start=True))
    plain, _ = run(digits, "mixup", epochs=10, batch_size=32)
    robust, _ = run(digits, "mixup", epochs=10, batch_size=32, adversary=adversary)
    accuracy = [PGD("linf", 0.15, 10).run(model, images, labels).robust_accuracy for model in (plain, robust)]
    assert accuracy[1] > accuracy[0] + 0.15
    assert adversary.drawn == 10 * 256
