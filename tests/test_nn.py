from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import regfast
from regfast import smooth
from regfast.nn import LinearSoftCrossEntropy, SoftCrossEntropy


def test_takes_the_place_of_torchs_module():
    logits, labels, weight = torch.randn(6, 4), torch.arange(6) % 4, torch.rand(4)
    ours = SoftCrossEntropy(weight, label_smoothing=0.1, ignore_index=2)
    theirs = nn.CrossEntropyLoss(weight, label_smoothing=0.1, ignore_index=2)
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    torch.testing.assert_close(ours(input=logits, target=labels), theirs(input=logits, target=labels))
    assert "label_smoothing=0.1" in repr(ours)


@pytest.mark.parametrize(
    "arguments", [(None, None, 2, None, "sum", 0.1), (None, False), (None, True, 1, False), (None, True, 1)]
)
def test_positional_arguments_are_torchs(arguments):
    logits, labels = torch.randn(6, 4), torch.arange(6) % 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls size_average and reduce deprecated
        theirs = nn.CrossEntropyLoss(*arguments)
    torch.testing.assert_close(SoftCrossEntropy(*arguments)(logits, labels), theirs(logits, labels))


def test_class_weights_move_with_the_module_and_come_from_torchs():
    module = SoftCrossEntropy(torch.rand(4)).double()
    assert module.weight.dtype == torch.float64 and not list(module.parameters())
    theirs = nn.CrossEntropyLoss(torch.rand(4))
    for mine in (module, LinearSoftCrossEntropy(torch.rand(4))):
        mine.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(mine.weight.float(), theirs.weight)
        theirs.load_state_dict(mine.state_dict())


def test_z_loss():
    logits, labels = torch.randn(6, 4), torch.arange(6) % 4
    expected = regfast.soft_cross_entropy(logits, labels, z_loss=0.1)
    torch.testing.assert_close(SoftCrossEntropy(z_loss=0.1)(logits, labels), expected)
    head = nn.Linear(3, 4)
    features = torch.randn(6, 3)
    expected = regfast.soft_cross_entropy(head(features), labels, z_loss=0.1)
    torch.testing.assert_close(LinearSoftCrossEntropy(z_loss=0.1)(features, head, labels), expected)


def test_sample_weights_and_soft_targets():
    logits, target, share = torch.randn(6, 4), smooth(torch.arange(6) % 4, 4, 0.1), torch.rand(6)
    torch.testing.assert_close(
        SoftCrossEntropy(reduction="none")(logits, target, share),
        regfast.soft_cross_entropy(logits, target, reduction="none") * share,
    )


def test_linear_form_trains_the_head():
    head, features, labels = nn.Linear(3, 4), torch.randn(6, 3), torch.arange(6) % 4
    loss = LinearSoftCrossEntropy(label_smoothing=0.1)(features, head, labels)
    torch.testing.assert_close(loss, nn.CrossEntropyLoss(label_smoothing=0.1)(head(features), labels))
    loss.backward()
    ours = head.weight.grad.clone()
    head.zero_grad()
    nn.CrossEntropyLoss(label_smoothing=0.1)(head(features), labels).backward()
    torch.testing.assert_close(ours, head.weight.grad)


def test_in_a_compiled_training_step():
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    criterion = SoftCrossEntropy(label_smoothing=0.1)
    step = torch.compile(lambda x, y: criterion(model(x), y), fullgraph=True, backend="aot_eager")
    images, target = regfast.mixup(torch.rand(6, 3), torch.arange(6) % 4, 4)
    loss = step(images, target)
    torch.testing.assert_close(loss, criterion(model(images), target))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
