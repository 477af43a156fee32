from __future__ import annotations

import pytest
import torch

from regfast.ops import dispatch
from regfast.ops.feature_attack import feature_attack
from regfast.ops.reference.feature_attack import feature_attack as reference


def case(classes, width, rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    logits = torch.randn(rows, width, generator=generator, dtype=torch.float64) @ weight.T
    labels = logits.argmax(1)
    labels[:5] = (labels[:5] + 1) % classes  # lost from the start
    eps = torch.rand(rows, generator=generator, dtype=torch.float64) * width**0.5 / 4
    return logits, weight, labels, eps, eps / 3


@pytest.mark.parametrize("linf", [False, True])
@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize(("classes", "width"), [(2, 1), (10, 9), (5, 40), (130, 20)])
def test_native_is_reference(classes, width, margin, linf):
    if dispatch.unavailable("cpu") is not None:
        pytest.skip("no native extension")
    arguments = case(classes, width)
    expected = reference(*arguments, 7, linf=linf, margin=margin)
    with dispatch.use_backend("cpu"):
        got = feature_attack(*arguments, 7, linf=linf, margin=margin)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    assert bool((got[:5] == 0).all())


def test_native_survives_what_is_far_out_or_broken():
    if dispatch.unavailable("cpu") is not None:
        pytest.skip("no native extension")
    logits, weight, labels, eps, size = case(6, 4, rows=12)
    logits[5] *= 1e4
    logits[6] = float("nan")
    eps[7] = 0
    expected = reference(logits, weight, labels, eps, size, 5, linf=False, margin=False)
    with dispatch.use_backend("cpu"):
        got = feature_attack(logits, weight, labels, eps, size, 5, linf=False, margin=False)
        torch.testing.assert_close(got, expected)
        assert bool((got[[6, 7]] == 0).all())
        assert feature_attack(logits[:0], weight, labels[:0], eps[:0], size[:0], 5, linf=True, margin=True).shape == (
            0,
            4,
        )
        with pytest.raises(IndexError, match="class 6"):
            feature_attack(logits, weight, labels.fill_(6), eps, size, 5, linf=False, margin=False)
        with pytest.raises(ValueError, match="eps"):
            feature_attack(logits, weight, labels.fill_(0), eps[:3], size, 5, linf=False, margin=False)


def test_a_step_of_zero_length_and_no_steps():
    logits, weight, labels, eps, size = case(3, 2, rows=10)
    for steps, pace in ((0, size), (4, 0 * size)):
        moved = feature_attack(logits, weight, labels, eps, pace, steps, linf=False, margin=False)
        assert bool((moved == 0).all())
