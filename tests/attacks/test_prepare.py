"""The prepared model says what the given one says, faster, and the given one stays as it was."""

import copy
import threading

import pytest
import torch
from torch import nn

from regfast.attacks.prepare import fold_batch_norm, frozen, prepare


class Block(nn.Module):
    """A residual block whose batch-norms have seen data."""

    def __init__(self, channels: int, bias: bool = False):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=bias)
        self.bn2 = nn.BatchNorm2d(channels, affine=not bias)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


def network(seed: int = 0, bias: bool = False, extra: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Block(8, bias),
        *([] if extra is None else [extra]),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 5),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.2, 3.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model


def gradient(model, images):
    images = images.clone().requires_grad_()
    return torch.autograd.grad(model(images).logsumexp(1).sum(), images)[0]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_prepared_model_repeats_logits_and_gradients(bias, channels_last):
    model, images = network(bias=bias).eval(), torch.rand(6, 3, 11, 7)
    prepared = prepare(model, images[:2], channels_last=channels_last)
    expected = gradient(model, images)
    torch.testing.assert_close(prepared(images), model(images), rtol=1e-5, atol=1e-5)
    assert (gradient(prepared, images) - expected).abs().max() <= 1e-6 * max(1.0, expected.abs().max().item())


def test_every_pair_is_folded():
    model = network().eval()
    assert fold_batch_norm(model) == 4
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in model.modules())


def test_given_model_is_untouched():
    model = network().train()
    model[0].weight.requires_grad_(False)
    model[3].bn1.eval()
    before, state = copy.deepcopy(model), {k: v.clone() for k, v in model.state_dict().items()}
    prepared = prepare(model, torch.rand(2, 3, 8, 8), precision="bf16")
    prepared(torch.rand(2, 3, 8, 8))
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in model.state_dict().items())


def test_frozen_restores_flags_after_an_error():
    model = network().train()
    model[3].eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(RuntimeError, match="stop"), frozen(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        raise RuntimeError("stop")
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())


def test_norm_whose_input_is_used_twice_stays():
    class Tap(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x):
            x = self.conv(x)
            return x + self.bn(x)

    model = network(extra=Tap()).eval()
    assert fold_batch_norm(model) == 4
    assert isinstance(model[4].bn, nn.BatchNorm2d)


def test_shared_layer_stays():
    conv = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3)).eval()
    assert fold_batch_norm(model) == 0


def test_untraceable_part_is_left_and_the_rest_folded():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))

        def forward(self, x):
            return self.inner(x) if x.mean() > 0 else x

    model, images = network(extra=Branch()).eval(), torch.rand(3, 3, 8, 8)
    expected = model(images)
    folded = copy.deepcopy(model)
    assert fold_batch_norm(folded) == 5
    assert isinstance(folded[4].inner[1], nn.Identity)
    torch.testing.assert_close(prepare(model, images)(images), expected, rtol=1e-5, atol=1e-5)


def test_hooked_layer_is_not_folded():
    model = network().eval()
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    images = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(prepare(model, images)(images), model(images), rtol=1e-5, atol=1e-5)
    assert fold_batch_norm(copy.deepcopy(model)) == 3


def test_model_that_cannot_be_copied_or_views_its_input_is_used_as_given():
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock, self.linear = threading.Lock(), nn.Linear(12, 3)

        def forward(self, x):
            return self.linear(x.view(len(x), -1))

    model, images = Locked(), torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(prepare(model, images)(images), model(images))
    del model.lock
    torch.testing.assert_close(prepare(model, images)(images), model(images))


def test_bf16_is_close_and_float32():
    model, images = network().eval(), torch.rand(4, 3, 8, 8)
    logits = prepare(model, images, precision="bf16")(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, model(images))
    torch.testing.assert_close(logits, model(images), rtol=0.05, atol=0.05 * model(images).abs().max().item())


def test_plain_callable_comes_back_as_it_is_and_bad_precision_is_refused():
    images = torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(prepare(lambda x: x.sum((2, 3)), images)(images), images.sum((2, 3)))
    with pytest.raises(ValueError, match="precision"):
        prepare(nn.Flatten(), images, precision="fp8")
