"""Which class each sample of a targeted evaluation is to reach."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TARGETS = ("random", "next", "least-likely")


def target_classes(target: int | str, labels: Tensor, samples: Tensor, logits: Tensor, seed: int) -> Tensor:
    """(n,) int64 class that each sample is to reach; never its label, but where `target` is that number.

    Args:
        target: a class number for all; "random": drawn by `seed` and sample id; "next": the label plus one;
            "least-likely": by the clean logits.
        labels, samples: (n,) int64; `logits`: (n, K).
    """
    classes = logits.shape[1]
    if isinstance(target, int):
        return torch.full_like(labels, target)
    if target == "least-likely":
        return logits.scatter(1, labels.unsqueeze(1), torch.inf).argmin(1)
    if target == "next":
        return (labels + 1) % classes
    steps = [int(np.random.default_rng([seed, sample]).integers(1, classes)) for sample in samples.tolist()]
    return (labels + torch.tensor(steps, dtype=torch.int64)) % classes
