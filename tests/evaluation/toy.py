"""A small data set and a model whose output for an image does not depend on the batch around it.

Run as a program (`python -m tests.evaluation.toy OUT …`) it evaluates them, alone or under torchrun, and can be told to
die or to find the disk full after some chunks.
"""

import argparse
import errno
import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from regfast.attacks import FGSM, PGD
from regfast.evaluation import evaluate, store
from regfast.runs import group


class RowwiseLinear(nn.Module):
    """Logits by sums within each row: no matrix product whose rounding could depend on the batch."""

    def __init__(self, classes=4, pixels=48):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, pixels, generator=generator) * 0.5)

    def forward(self, images):
        return (images.flatten(1).unsqueeze(1) * self.weight).sum(2)


class Toy:
    """60 images of 3 x 4 x 4, labeled by the model, every tenth label wrong."""

    def __init__(self, n=60, delay=0.0):
        self.images = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            self.labels = RowwiseLinear()(self.images).argmax(1)
        self.labels[::10] = (self.labels[::10] + 1) % 4
        self.delay = delay

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        time.sleep(self.delay)
        return self.images[index], int(self.labels[index])


def attacks():
    return [PGD("linf", eps, steps=5) for eps in (0.02, 0.005)] + [FGSM("l2", 0.05)]


def run(out, chunk_size=None, delay=0.0):
    """Evaluate in this process, or go on with what others have left."""
    return evaluate(
        RowwiseLinear(), Toy(delay=delay), attacks(), out=out, chunk_size=chunk_size, device="cpu", progress=False
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--chunk-size", type=int)
    parser.add_argument("--die-after", type=int, default=-1)
    parser.add_argument("--full-after", type=int, default=-1)
    parser.add_argument("--only-rank", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.002, help="seconds that reading a sample takes")
    parser.add_argument("--patience", type=float, help="seconds without a sign of life until a worker counts as lost")
    parser.add_argument("--once", help="a file that marks that the worker has died before")
    options = parser.parse_args()

    rank = int(os.environ.get("RANK", "0"))
    written, write = [], store.ResultStore.write

    def write_or_fail(self, *arguments):
        if rank == options.only_rank and not (options.once and Path(options.once).exists()):
            if len(written) == options.die_after:
                if options.once:
                    Path(options.once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if len(written) == options.full_after:
                os.fsync = full
        written.append(1)
        return write(self, *arguments)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    store.ResultStore.write = write_or_fail
    # the worker that fails reads fast and the others slowly, so that it gets to its failure
    fails = options.die_after >= 0 or options.full_after >= 0
    delay = 0.1 if fails and rank != options.only_rank else options.delay
    if options.patience is not None:
        group._PATIENCE = options.patience
    result = run(options.out, options.chunk_size, delay)
    if rank == 0:
        print("robust", result.robust_accuracy("pgd", 0.02))


if __name__ == "__main__":
    main()
