"""Mixing and metrics on the device: right, and nothing that makes the host wait."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from regfast import CutMix, MixUp, RandomChoice, SoftTargets, cutmix, mixup


@contextmanager
def no_waits():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", [None, "cpu", "cuda"])
@pytest.mark.parametrize("function", [mixup, cutmix])
def test_mixing_waits_for_nothing(function, device):
    """With torch's own generator, one on the host, one on the device (λ is a tensor there)."""
    generator = None if device is None else torch.Generator(device).manual_seed(0)
    images, labels = torch.rand(6, 3, 8, 8, device="cuda"), torch.arange(6, device="cuda") % 5
    with no_waits():
        mixed, target = function(images, labels, 5, smoothing=0.1, generator=generator)
        dense = target.dense()
    lam = torch.as_tensor(target.lam, device="cuda")
    assert (device == "cuda") == isinstance(target.lam, torch.Tensor)
    expected = SoftTargets(labels, labels.roll(1), lam, 0.1, num_classes=5).dense()
    torch.testing.assert_close(dense, expected)
    if function is mixup:
        torch.testing.assert_close(mixed, lam.float() * images + (1 - lam.float()) * images.roll(1, 0))
    else:
        pasted = (mixed != images).double().mean(dim=(0, 1)).round()
        assert float(1 - pasted.mean()) == pytest.approx(float(lam))


def test_transforms_with_a_generator_on_the_device():
    generator = torch.Generator("cuda").manual_seed(0)
    images, labels = torch.rand(6, 3, 8, 8, device="cuda"), torch.arange(6, device="cuda") % 5
    mix = RandomChoice([MixUp(5, generator=generator), CutMix(5, generator=generator)], generator=generator)
    draws = {float(mix(images, labels)[1].lam) for _ in range(5)}
    assert len(draws) == 5


def test_metrics_wait_for_nothing_and_refuse_at_the_end():
    metrics = pytest.importorskip("regfast.evaluation.metrics", exc_type=ImportError)
    logits, labels = torch.randn(40, 5, device="cuda"), torch.randint(5, (40,), device="cuda")
    labels[3] = -100
    features = torch.randn(40, 8, device="cuda")
    kinds = (metrics.RobustAccuracy(), metrics.CalibrationError(), metrics.CenterCosine(torch.randn(5, 8)))
    for metric in kinds:
        metric.to("cuda")
        rows = features if isinstance(metric, metrics.CenterCosine) else logits
        metric.update(rows, labels)  # compiles what there is to compile
        with no_waits():
            metric.update(rows, labels)
        value = metric.compute()
        host = type(metric)(metric.centers) if isinstance(metric, metrics.CenterCosine) else type(metric)()
        host.cpu().update(rows.cpu(), labels.cpu())
        torch.testing.assert_close(value.cpu(), host.compute(), atol=1e-5, rtol=1e-5)
        metric.update(rows, torch.full_like(labels, 7))
        with pytest.raises(IndexError, match="got 40 rows that are not"):
            metric.compute()
