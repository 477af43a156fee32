from __future__ import annotations

import torch
from torch import nn

import regfast
from regfast import smooth
from regfast.nn import LinearSoftCrossEntropy, SoftCrossEntropy


def test_takes_the_place_of_torchs_module():
    logits, labels, weight = torch.randn(6, 4), torch.arange(6) % 4, torch.rand(4)
    ours = SoftCrossEntropy(label_smoothing=0.1, class_weight=weight, ignore_index=2)
    theirs = nn.CrossEntropyLoss(weight, label_smoothing=0.1, ignore_index=2)
    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    assert "label_smoothing=0.1" in repr(ours)


def test_class_weights_move_with_the_module():
    module = SoftCrossEntropy(class_weight=torch.rand(4)).double()
    assert module.class_weight.dtype == torch.float64 and "class_weight" in module.state_dict()
    assert not list(module.parameters())


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
