"""What the options of a step do: parts, moving average, precision, memory format, compilation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from regfast.models import split_classifier
from regfast.training import REGULARIZERS, Context, Recipe
from regfast.training.step import Stepper

PLAIN = Recipe(momentum=0.0, weight_decay=0.0)


class Watched(nn.Module):
    """Two convolutions without batch norm; remembers what the first one got and gave."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        out = self.first(images)
        self.seen = images, out
        return self.head(self.second(out.tanh()).tanh().mean((2, 3)))


@pytest.fixture
def batch():
    return torch.rand(22, 3, 8, 8), torch.randint(5, (22,))


@pytest.fixture
def network():
    return Watched()


def stepped(network, batch, recipe=PLAIN, steps=1, regularizer="mixup", rate=0.5):
    """The model after `steps`, as one vector after each, the stepper, and its context."""
    model = split_classifier(network, example=batch[0][:1])
    start = {name: value.clone() for name, value in model.state_dict().items()}
    rule = REGULARIZERS.build(regularizer)
    context = Context(model, torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), None)
    context.generator = torch.Generator().manual_seed(0)
    step, after = Stepper(model, rule, recipe, context), []
    for _ in range(steps):
        found = step(*rule.batch(*batch, context), rate)
        after.append(vector(model))
    model.load_state_dict(start)
    return after, found, step, context


def vector(model):
    return torch.cat([value.detach().flatten() for value in model.parameters()])


@pytest.mark.parametrize("regularizer", ["hard", "mixup", "cosine-reward"])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(network, batch, regularizer):
    before = vector(network)
    (whole,), one, *_ = stepped(network, batch, regularizer=regularizer)
    (parts,), other, *_ = stepped(network, batch, replace(PLAIN, accumulate=4), regularizer=regularizer)
    assert (whole - before).norm() > 1e-4
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)  # sums of 22 terms of order 1 in another order
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_moving_average_follows_its_formula(network, batch):
    after, _, step, _ = stepped(network, batch, replace(PLAIN, ema=0.75), steps=4)
    expected = after[0]
    for weights in after[1:]:
        expected = 0.75 * expected + 0.25 * weights
    torch.testing.assert_close(vector(step.judged), expected, rtol=1e-5, atol=1e-6)
    assert (vector(step.judged) - after[-1]).norm() > 1e-4


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_low_precision_is_the_networks_alone(network, batch, precision, dtype):
    before = vector(network)
    (exact,), *_ = stepped(network, batch, rate=0.1)
    (low,), found, step, context = stepped(network, batch, replace(PLAIN, precision=precision), rate=0.1)
    assert context.model.backbone.seen[1].dtype == dtype
    assert found.dtype == context.stats.rms.dtype == context.stats.loss.dtype == low.dtype == torch.float32
    assert (low - exact).norm() < 0.2 * (exact - before).norm()  # a few roundings to 8 bits; 0.01 as a rule
    assert step.state()["scaler"] == ({} if precision == "bf16" else step._scaler.state_dict())
    assert step._scaler.get_scale() == (1.0 if precision == "bf16" else 65536.0)


def test_a_loss_scale_that_overflows_skips_the_step_and_halves(network, batch):
    model = split_classifier(network, example=batch[0][:1])
    rule, before = REGULARIZERS.build("hard"), vector(model)
    context = Context(model, torch.ones(5, 8), torch.Generator())
    step = Stepper(model, rule, replace(PLAIN, precision="fp16"), context)
    step._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    step(*batch, 0.1)
    assert torch.equal(vector(model), before) and step._scaler.get_scale() == 2.0**39


def test_channels_last(network, batch):
    (exact,), _, _, context = stepped(network, batch)
    assert not context.model.backbone.seen[0].is_contiguous(memory_format=torch.channels_last)
    (changed,), _, _, context = stepped(network, batch, replace(PLAIN, channels_last=True))
    assert context.model.backbone.seen[0].is_contiguous(memory_format=torch.channels_last)
    assert network.second.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(changed, exact, rtol=0, atol=1e-5)


def test_compile(network, batch, monkeypatch):
    graphs, compiled = [], torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module: compiled(module, backend=lambda graph, _: graphs.append(graph) or graph)
    )
    (exact,), *_ = stepped(network, batch)
    assert not graphs
    (changed,), *_ = stepped(network, batch, replace(PLAIN, compile=True))
    assert graphs
    torch.testing.assert_close(changed, exact, rtol=0, atol=1e-5)
