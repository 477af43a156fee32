"""What a training step costs beside the bare model: python -m benchmarks.train_step --model resnet20

The bare step is forward, cross-entropy of labels, backward and the optimizer, on a batch that is there already.
regfast's has what `regfast train` does besides: images taken from the set, cropped and flipped, mixed, the loss with
soft targets, and RMS and cosine of every sample. Both take turns; the figure is the median ratio of processor times.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from regfast.data import ImageArray
from regfast.data.images import unit
from regfast.data.loading import Batches
from regfast.models import load_model
from regfast.training import RECIPES, REGULARIZERS, Context
from regfast.training.augment import crop_and_flip
from regfast.training.step import Stepper


def timed(work: Callable[[], object]) -> float:
    """Processor seconds."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--regularizer", default="mixup")
    parser.add_argument("--recipe", default="cifar", help="name:option=value")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe, rule = RECIPES.build(options.recipe), REGULARIZERS.build(options.regularizer)
    draw = torch.Generator().manual_seed(0)
    count = 10 * recipe.batch_size
    pixels = torch.randint(256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    shown = Batches(ImageArray(pixels, torch.arange(count) % 10, "0123456789"), torch.device("cpu"))
    ours, bare = (load_model(options.model, num_classes=10, seed=0).train() for _ in range(2))
    context = Context(ours, torch.randn(ours.head.weight.shape, generator=draw), draw)
    step = Stepper(ours, rule, recipe, context)
    indices = torch.arange(recipe.batch_size)
    # The bare model gets images in the memory format that the crop leaves them in, which is the faster one.
    ready = crop_and_flip(unit(pixels[indices]), draw)
    labels = shown.labels[indices]
    if recipe.channels_last:
        bare.to(memory_format=torch.channels_last)
    optimizer = recipe.optimizer(bare)

    def plain() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(bare(ready), labels).backward()
        optimizer.step()

    def regfast() -> None:
        (stored,) = shown.pixels([indices])
        images = unit(crop_and_flip(stored, draw) if recipe.augment else stored)
        step(*rule.batch(images, labels, context), 0.01)

    for work in (plain, regfast):
        work()
    pairs = [(timed(plain), timed(regfast)) for _ in range(options.pairs)]
    ratios = sorted(second / first for first, second in pairs)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    alone = statistics.median(first for first, _ in pairs)
    print(
        f"{options.model}, {recipe.batch_size} images, {options.regularizer}: bare {alone * 1e3:.1f} ms, "
        f"regfast {statistics.median(ratios):.3f} of it (middle half {low:.3f} to {high:.3f})"
    )


if __name__ == "__main__":
    main()
