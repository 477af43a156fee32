"""What a loss over many classes holds: `python -m benchmarks.loss.memory` prints a line a loss.

Every row is a process of its own: features (ROWS, WIDTH) times a head's weight, the loss, and backward to both.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from regfast import SoftTargets, linear_soft_cross_entropy, soft_cross_entropy

ROWS, WIDTH, CLASSES = 1024, 64, (32000, 128000)
REPEATS = 3
MIX, SMOOTHING = 0.3, 0.1


def _ours(**options: object) -> Callable[[Tensor, Tensor, SoftTargets], Tensor]:
    return lambda features, weight, target: soft_cross_entropy(features @ weight.T, target, **options)


def _eager(features: Tensor, weight: Tensor, target: SoftTargets) -> Tensor:
    logits, parts = features @ weight.T, (target.first, target.second)
    a, b = (functional.cross_entropy(logits, part, label_smoothing=SMOOTHING) for part in parts)
    return MIX * a + (1 - MIX) * b


LOSSES: dict[str, Callable[[Tensor, Tensor, SoftTargets], Tensor]] = {
    "eager, two terms": _eager,
    'regfast, backward="store"': _ours(backward="store"),
    'regfast, backward="recompute"': _ours(backward="recompute"),
    "regfast, inplace=True": _ours(inplace=True),
    "regfast, linear_soft_cross_entropy": lambda features, weight, target: linear_soft_cross_entropy(
        features, weight, None, target
    ),
}


def _resident() -> float:
    """MiB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def _measure(name: str, classes: int) -> dict[str, object]:
    """MiB beyond the inputs and their gradients, held between the first two passes and at most; processor seconds."""
    torch.manual_seed(0)
    features, weight = torch.randn(ROWS, WIDTH), torch.randn(classes, WIDTH) / 8
    first = torch.randint(classes, (ROWS,))
    target = SoftTargets(first=first, second=first.roll(1), lam=MIX, smoothing=SMOOTHING, num_classes=classes)
    for tensor in (features, weight):
        tensor.requires_grad_().grad = torch.zeros_like(tensor)
    LOSSES[name](features[:2], weight, target[:2]).backward()  # code and thread pools are loaded
    before, seconds, held = _resident(), [], []
    for _ in range(REPEATS):
        start = time.process_time()
        loss = LOSSES[name](features, weight, target)
        held.append(_resident() - before)
        loss.backward()
        seconds.append(time.process_time() - start)
        del loss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"loss": name, "classes": classes, "held": held[0], "peak": peak, "seconds": statistics.median(seconds)}


def main() -> None:
    print(f"{ROWS} rows, float32")
    for classes in CLASSES:
        for name in LOSSES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(_measure, (name, classes))
            print(
                f"{classes:>7} {name:36} between the passes {row['held']:5.0f} MiB, at most {row['peak']:5.0f} MiB, "
                f"{row['seconds']:.2f} processor s"
            )


if __name__ == "__main__":
    main()
