"""The gradient of a step is that of the mean over its labels, however the step is cut up; in the real Trainer too."""

import contextlib
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional

from regfast import SoftTargets
from regfast.integrations.huggingface import TrainerLoss


def samples():
    """Sixteen rows of tokens, of which each labels another number."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(16, 6, 5, generator=generator), torch.randint(7, (16, 6), generator=generator)
    labels[torch.arange(6)[None] > torch.arange(16)[:, None] % 6] = -100
    return x, labels


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(5, 7)

    def forward(self, x):
        return {"logits": self.head(x)}


def expected_norm(smoothing):
    (x, labels), model = samples(), Model()
    functional.cross_entropy(model(x)["logits"].flatten(0, 1), labels.flatten(), label_smoothing=smoothing).backward()
    return torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()


@pytest.mark.parametrize("pieces", [1, 2, 4, 8])
def test_pieces_of_a_step_add_up(pieces):
    x, labels = samples()
    model, loss = Model(), TrainerLoss(label_smoothing=0.1)
    for part, known in zip(x.chunk(pieces), labels.chunk(pieces), strict=True):
        loss(model(part), known, num_items_in_batch=(labels != -100).sum()).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(expected_norm(0.1), rel=1e-5)


def test_outputs_labels_and_counts():
    logits, labels = torch.randn(4, 6, 7), torch.randint(7, (4, 6))
    labels[:, 0] = -100
    mean = functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    for outputs in ({"logits": logits}, (logits, None)):
        torch.testing.assert_close(TrainerLoss()(outputs, labels), mean)
    for items in (20, torch.tensor(20), torch.tensor([[10], [10]])):  # the last: two GPUs under DataParallel
        torch.testing.assert_close(TrainerLoss()((logits,), labels, items), mean)
    shifted = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(TrainerLoss(shift=True)((logits,), labels), shifted)
    mixed = SoftTargets(torch.arange(4), torch.tensor([1, 2, -100, 0]), 0.3, num_classes=7)
    assert int(mixed.ne(-100).sum()) == 3  # how the Trainer counts
    rows = mixed.ne(-100)
    torch.testing.assert_close(
        TrainerLoss()((logits[:, 0][rows],), mixed[rows], 3),
        functional.cross_entropy(logits[:, 0][rows], mixed[rows].dense()),
    )
    with pytest.raises(TypeError, match="the Trainer decides reduction: leave it out"):
        TrainerLoss(reduction="sum")
    with pytest.raises(TypeError, match="shift=True needs labels"):
        TrainerLoss(shift=True)((logits,), mixed)


def train(folder, accumulation, processes):
    """The gradient norm that the Trainer logs for one step over all rows."""
    with contextlib.suppress(ImportError):  # transformers imports torchvision where it is installed
        from regfast.models import _torchvision  # noqa: F401
    transformers = pytest.importorskip("transformers")
    x, labels = samples()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=16 // (accumulation * processes),
        gradient_accumulation_steps=accumulation, logging_steps=1, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, remove_unused_columns=False, average_tokens_across_devices=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=Model(), args=arguments, compute_loss_func=TrainerLoss(label_smoothing=0.1),
        train_dataset=[{"x": row, "labels": known} for row, known in zip(x, labels, strict=True)],
    )  # fmt: skip
    trainer.train()
    return next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry)


@pytest.mark.parametrize("accumulation", [1, 2, 4, 8])
def test_in_the_trainer(tmp_path, accumulation):
    assert train(tmp_path, accumulation, 1) == pytest.approx(expected_norm(0.1), rel=1e-4)


def _process(rank, folder, port):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo", ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    torch.set_num_threads(1)
    for accumulation in (1, 2, 4, 8):
        assert train(folder, accumulation, 2) == pytest.approx(expected_norm(0.1), rel=1e-4), accumulation
    dist.barrier()
    dist.destroy_process_group()  # Gloo's threads end a process that leaves them running, now and then


@pytest.mark.slow
def test_in_two_processes_of_the_trainer(tmp_path):
    pytest.importorskip("transformers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (str(tmp_path), port), nprocs=2)
