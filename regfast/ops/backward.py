"""What a backward pass may do with a gradient that the forward pass left: questions to autograd."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["batched", "check_first", "keeps_graph"]


def check_first() -> None:
    """RuntimeError in a backward pass that is to be differentiated itself (`create_graph=True`)."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "regfast's fused losses have no second derivative (create_graph=True); "
            'use soft_cross_entropy under regfast.use_backend("reference")'
        )


def keeps_graph() -> bool:
    """Whether this backward pass may be followed by another over the same graph (`retain_graph=True`)."""
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())


def batched(*grads: Tensor | None) -> bool:
    """Whether an incoming gradient is a batch of gradients (`is_grads_batched=True`), which no kernel reads."""
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    return any(grad is not None and is_batched(grad) for grad in grads)
