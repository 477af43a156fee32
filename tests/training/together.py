"""One rank of a training: python -m tests.training.together FOLDER, with RANK and WORLD_SIZE in the environment."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from regfast.data import ImageArray
from regfast.models import split_classifier
from regfast.training import REGULARIZERS, Recipe, train

RECIPE = Recipe(epochs=2, batch_size=12, learning_rate=0.1, augment=True, ema=0.5, accumulate=2)


def model():
    """Without batch norm, whose statistics are a rank's."""
    torch.manual_seed(5)
    layers = [nn.Conv2d(1, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.0), nn.Linear(32, 3)]
    return split_classifier(nn.Sequential(*layers), example=torch.zeros(1, 1, 8, 8))


def images(count, seed):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)
    return ImageArray(pixels, torch.arange(count) % 3, "abc")


class Read:
    """The same images, which workers read one by one."""

    def __init__(self, held):
        self.held, self.labels, self.classes = held, held.labels, held.classes

    def __len__(self):
        return len(self.held)

    def __getitem__(self, index):
        return self.held[index]


def result(together, regularizer, read=False):
    """Weights and curves: 29 images are two whole batches and one of five, in uneven parts."""
    network, held = model(), images(29, 1)
    history = train(
        network, Read(held) if read else held, images(10, 2), REGULARIZERS.build(regularizer),
        replace(RECIPE, augment=not read), seed=0, together=together,
    )  # fmt: skip
    return network.state_dict(), [epoch.as_dict() for epoch in history]


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    folder, rank = Path(sys.argv[1]), dist.get_rank()
    found = {"mixup": result(True, "mixup"), "read": result(True, "hard", read=True)}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
