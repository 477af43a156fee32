"""The losses to compare, each as a function from logits and a target to a scalar loss."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from regfast.ops import dispatch
from regfast.ops.soft_cross_entropy import soft_cross_entropy
from regfast.ops.target import Target

SMOOTHING, MIX = 0.1, 0.3


class Batch(NamedTuple):
    logits: Tensor
    first: Tensor
    second: Tensor
    dense: Tensor | None


Loss = Callable[[Batch], Tensor]


def make(rows: int, classes: int, dtype: torch.dtype, kind: str) -> Batch:
    logits = torch.randn(rows, classes, device="cuda", dtype=dtype).requires_grad_()
    first = torch.randint(classes, (rows,), device="cuda")
    dense = torch.rand(rows, classes, device="cuda").softmax(1) if kind == "dense" else None
    return Batch(logits, first, first.roll(1), dense)


def ideal_bytes(batch: Batch) -> int:
    """Logits and target read once, the gradient written once."""
    size = 2 * batch.logits.numel() * batch.logits.element_size()
    return size if batch.dense is None else size + batch.dense.numel() * batch.dense.element_size()


def ours(kind: str) -> Loss:
    if kind == "dense":
        return lambda b: soft_cross_entropy(b.logits, Target(dense=b.dense))
    if kind == "hard":
        return lambda b: soft_cross_entropy(b.logits, Target(b.first, index_target=True))
    return lambda b: soft_cross_entropy(b.logits, Target(b.first, b.second, MIX, smoothing=SMOOTHING))


def forced(loss: Loss, backend: str) -> Loss:
    def run(batch: Batch) -> Tensor:
        with dispatch.use_backend(backend):
            return loss(batch)

    return run


def eager(kind: str) -> Loss:
    if kind == "dense":
        return lambda b: functional.cross_entropy(b.logits.float(), b.dense)
    if kind == "hard":
        return lambda b: functional.cross_entropy(b.logits.float(), b.first)

    def two_terms(b: Batch) -> Tensor:
        z = b.logits.float()
        one = functional.cross_entropy(z, b.first, label_smoothing=SMOOTHING)
        return MIX * one + (1 - MIX) * functional.cross_entropy(z, b.second, label_smoothing=SMOOTHING)

    return two_terms


def one_hot(b: Batch) -> Tensor:
    """As torchvision's MixUp makes the target."""
    classes = b.logits.shape[1]
    dense = (
        MIX * functional.one_hot(b.first, classes).float() + (1 - MIX) * functional.one_hot(b.second, classes).float()
    )
    return functional.cross_entropy(b.logits.float(), dense, label_smoothing=SMOOTHING)


def candidates(kind: str) -> dict[str, Loss]:
    """Name → loss, for those that can be had here; torch.compile's come from `compiled`."""
    found = {"regfast": ours(kind)}
    for backend in ("triton", "cuda"):
        if dispatch.unavailable(backend) is None:
            found[f"regfast {backend}"] = forced(ours(kind), backend)
    found["eager"] = eager(kind)
    if kind == "mixed":
        found["eager one-hot"] = one_hot
    if kind == "dense":
        timm = _optional("timm.loss", "SoftTargetCrossEntropy")
        if timm is not None:
            timm_loss = timm()
            found["timm"] = lambda b: timm_loss(b.logits.float(), b.dense)
    if kind == "hard":
        liger = _optional("liger_kernel.transformers", "LigerCrossEntropyLoss")
        if liger is not None:
            liger_loss = liger()
            found["liger"] = lambda b: liger_loss(b.logits, b.first)
        quack = _optional("quack", "cross_entropy") or _optional("quack.cross_entropy", "cross_entropy")
        if callable(quack):
            found["quack"] = lambda b: quack(b.logits, b.first, reduction="mean")
    return found


def compiled(kind: str) -> Loss:
    return torch.compile(eager(kind), dynamic=False)


def linear_candidates() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Name → loss of (features, weight, labels)."""
    from regfast.ops.linear_soft_cross_entropy import linear_soft_cross_entropy

    found: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
        "regfast": lambda x, w, y: linear_soft_cross_entropy(x, w, None, Target(y, index_target=True)),
        "eager": lambda x, w, y: functional.cross_entropy(functional.linear(x, w).float(), y),
    }
    cce = _optional("cut_cross_entropy", "linear_cross_entropy")
    if cce is not None:
        found["cce"] = lambda x, w, y: cce(x, w, y)
    liger = _optional("liger_kernel.transformers", "LigerFusedLinearCrossEntropyLoss")
    if liger is not None:
        liger_loss = liger()
        found["liger"] = lambda x, w, y: liger_loss(w, x, y)
    torchs = getattr(functional, "linear_cross_entropy", None)
    if torchs is not None:
        found["torch linear_cross_entropy"] = lambda x, w, y: torchs(x, w, y)
    return found


def _optional(module: str, name: str) -> Any:
    """What a package offers, None where it is not installed, or is broken."""
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError:
        return None
    except Exception as error:  # built for another torch, say: a peer must not end the run
        print(f"{module} is left out: {type(error).__name__}: {error}"[:200])
        return None
