import copy
import inspect
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from regfast.models import load_model, save_checkpoint
from regfast.training import REGULARIZERS, Context, Regularizer
from regfast.training.regularizers import Distillation


@pytest.fixture
def context():
    model = load_model("small-cnn", num_classes=5, seed=0)
    centers = torch.randn(5, model.head.in_features, generator=torch.Generator().manual_seed(1))
    return Context(model, centers, torch.Generator().manual_seed(7))


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(8, 1, 8, 8, generator=generator), torch.randint(5, (8,), generator=generator)


def loss_of(name, context, **options):
    """Loss of `name`, and the logits, features and labels that it is of."""
    images, labels = batch()
    context.images = images
    features = context.model.features(images)
    logits = context.head(features)
    features.retain_grad()
    return REGULARIZERS.build(name, **options).loss(logits, labels, features, context), logits, features, labels


def test_hard_labels_stay(context):
    images, labels = batch()
    mixed, target = REGULARIZERS.build("hard").batch(images, labels, context)
    assert mixed is images and target is labels
    loss, logits, _, _ = loss_of("hard", context)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))
    assert context.stats is not None and context.stats.rms.shape == (8,)


def test_smoothing(context):
    images, labels = batch()
    mixed, target = REGULARIZERS.build("smoothing:smoothing=0.3").batch(images, labels, context)
    assert torch.equal(mixed, images)
    torch.testing.assert_close(target.dense(), 0.7 * torch.eye(5)[labels] + 0.06)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_depends_on_the_generator_alone(name, context):
    images, labels = batch()
    rule = REGULARIZERS.build(name)
    torch.manual_seed(1)
    first, target = rule.batch(images, labels, context)
    torch.manual_seed(2)
    context.generator.manual_seed(7)
    again, same = rule.batch(images, labels, context)
    assert torch.equal(first, again) and torch.equal(target.dense(), same.dense())
    assert not torch.equal(first, images)
    torch.testing.assert_close(target.dense().sum(1), torch.ones(8))


def test_maxsup(context):
    loss, logits, _, labels = loss_of("maxsup", context, strength=0.7)
    extra = torch.stack([row.max() - row.sum() / 5 for row in logits]).mean()
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels) + 0.7 * extra)


def test_logit_norm(context):
    loss, logits, _, labels = loss_of("logit-norm", context, temperature=0.1)
    unit = logits / logits.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(loss, F.cross_entropy(10 * unit, labels), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close((gradient * logits).sum(1), torch.zeros(8), atol=1e-6, rtol=0)  # the norm stays free


def test_rms_penalty_moves_features_along_themselves(context):
    plain, *_ = loss_of("hard", context)
    loss, _, features, _ = loss_of("rms-penalty", context, strength=0.3)
    torch.testing.assert_close(loss - plain, 0.3 * features.square().mean(1).mean())
    (with_penalty,) = torch.autograd.grad(loss, features, retain_graph=True)
    bare, _, same, _ = loss_of("hard", context)
    torch.testing.assert_close(with_penalty - torch.autograd.grad(bare, same)[0], 0.6 * features / features.numel())


def test_cosine_reward_turns_features_without_moving_them_out(context):
    plain, *_ = loss_of("hard", context)
    loss, _, features, labels = loss_of("cosine-reward", context, strength=0.3)
    cosine = F.cosine_similarity(features, context.centers[labels])
    torch.testing.assert_close(loss, plain - 0.3 * cosine.mean())
    bare, _, same, _ = loss_of("hard", context)
    extra = torch.autograd.grad(loss, features)[0] - torch.autograd.grad(bare, same)[0]
    torch.testing.assert_close((extra * features).sum(1), torch.zeros(8), atol=1e-6, rtol=0)
    assert extra.norm() > 1e-3


@pytest.mark.parametrize("named", [False, True])
def test_distillation(context, tmp_path, named):
    teacher = load_model("small-cnn", num_classes=5, seed=3)
    save_checkpoint(teacher.network_state(), tmp_path / "teacher.safetensors")
    options = {"checkpoint": str(tmp_path / "teacher.safetensors"), "temperature": 2.0, "share": 0.25}
    loss, logits, _, labels = loss_of("distillation", context, **options, model="small-cnn" if named else None)
    taught = teacher.eval()(batch()[0]).detach()
    divergence = F.kl_div((logits / 2).log_softmax(1), (taught / 2).softmax(1), reduction="batchmean")
    expected = 0.75 * F.cross_entropy(logits, labels) + 0.25 * 4 * divergence
    mine, theirs = torch.autograd.grad(loss, logits, retain_graph=True)[0], torch.autograd.grad(expected, logits)[0]
    torch.testing.assert_close(mine, theirs)


def test_distillation_names_a_checkpoint_that_does_not_fit(context, tmp_path):
    save_checkpoint(load_model("small-cnn", num_classes=7).network_state(), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors"):
        loss_of("distillation", context, checkpoint=str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("name", REGULARIZERS.names())
def test_each_is_a_small_file_with_its_source_and_a_label(name):
    cls = REGULARIZERS.find(name)
    assert cls.label and cls.__doc__
    text = Path(inspect.getfile(cls)).read_text()
    assert len(text.splitlines()) <= 62
    assert name == "hard" or "arXiv" in text


def test_a_regularizer_is_made_again_from_its_options():
    one = Distillation("a.safetensors", share=0.5)
    assert one.options == {"checkpoint": "a.safetensors", "model": None, "temperature": 4.0, "share": 0.5}
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), Distillation(**one.options)):
        assert other.options == one.options and repr(other) == repr(one)
    assert REGULARIZERS.build("hard").options == {} and Regularizer().options == {}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dropout", "there are cosine-reward, cutmix"),
        ("hard:alpha=1", "hard takes no alpha; it takes no options"),
        ("smoothing:smoothing=1.5", r"smoothing must be a number in \[0, 1\], got 1.5"),
        ("mixup:alpha=0", r"alpha must be a number in \(0, inf\), got 0"),
        ("cutmix:alpha=many", "alpha must be a number"),
        ("maxsup:strength=-1", "strength must be a number"),
        ("logit-norm:temperature=0", "temperature must be a number"),
    ],
)
def test_errors(spec, message):
    with pytest.raises(ValueError, match=message):
        REGULARIZERS.build(spec)
