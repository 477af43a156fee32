"""The metrics against hand counts, over any batching, and synchronised over two processes."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from regfast.evaluation.metrics import AttackSuccessRate, CalibrationError, CenterCosine, FeatureRMS, RobustAccuracy


def data(n=40, classes=5, d=8):
    generator = torch.Generator().manual_seed(0)
    logits, attacked = (3 * torch.randn(n, classes, generator=generator) for _ in range(2))
    labels = torch.randint(classes, (n,), generator=generator)
    logits[: n // 2].scatter_(1, labels[: n // 2, None], 9.0)
    features, centers = torch.randn(n, d, generator=generator), torch.randn(classes, d, generator=generator)
    return logits, attacked, labels, features, centers


def updates(metric, rows):
    logits, attacked, labels, features, _ = data()
    arguments = {
        RobustAccuracy: (attacked, labels),
        AttackSuccessRate: (logits, attacked, labels),
        FeatureRMS: (features,),
        CenterCosine: (features, labels),
        CalibrationError: (logits, labels),
    }[type(metric)]
    metric.update(*(tensor[rows] for tensor in arguments))


def metrics():
    return [RobustAccuracy(), AttackSuccessRate(), FeatureRMS(), CenterCosine(data()[4]), CalibrationError()]


def expected():
    logits, attacked, labels, features, centers = data()
    correct, robust = logits.argmax(1) == labels, attacked.argmax(1) == labels
    confidence = logits.double().softmax(1).amax(1)
    ece = 0.0
    for index in range(15):
        here = (confidence * 15).long().clamp(max=14) == index
        if here.any():
            ece += (confidence[here].mean() - correct[here].double().mean()).abs() * here.double().mean()
    return [
        robust.double().mean(),
        (correct & ~robust).sum() / correct.sum(),
        (features.norm(dim=1) / 8**0.5).mean(),
        torch.cosine_similarity(features, centers[labels]).mean(),
        ece,
    ]


@pytest.mark.parametrize("batch", [40, 7, 1])
def test_the_value_does_not_depend_on_the_batches(batch):
    for metric, value in zip(metrics(), expected(), strict=True):
        for rows in torch.arange(40).split(batch):
            updates(metric, rows)
        assert metric.compute().item() == pytest.approx(float(value), abs=1e-6), type(metric).__name__


def worker(rank, size, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    torch.set_num_threads(1)
    for metric, value in zip(metrics(), expected(), strict=True):
        updates(metric, torch.arange(rank, 40, size) if rank else torch.arange(0, 40, size))
        assert metric.compute().item() == pytest.approx(float(value), abs=1e-6), type(metric).__name__
    dist.destroy_process_group()


def test_two_processes_agree(tmp_path):
    mp.spawn(worker, (2, str(tmp_path)), nprocs=2)


def test_a_confidence_of_one_is_in_the_last_bin():
    metric = CalibrationError(bins=10)
    metric.update(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]), torch.tensor([0, 0]))
    assert metric.compute() == pytest.approx(0.5)


def test_wrong_shapes_and_bins_are_refused():
    with pytest.raises(ValueError, match="logits"):
        RobustAccuracy().update(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="bins"):
        CalibrationError(bins=0)
    with pytest.raises(ValueError, match="features"):
        FeatureRMS().update(torch.zeros(3))
