"""Magnitude and direction of features on a GPU: the functions of `regfast.ops.reference.feature_stats`."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from regfast.ops.backward import batched, check_first
from regfast.ops.feature_stats import FeatureStats
from regfast.ops.triton.feature_kernels import feature_stats_backward_kernel, feature_stats_kernel
from regfast.ops.triton.launch import check_dtype, feature_block, launch, rows_of

__all__ = ["feature_stats", "features_backward"]

_ROWS = 4


def feature_stats(
    features: Tensor, centers: Tensor, labels: Tensor, predictions: Tensor | None = None, *, ignore_index: int = -100
) -> FeatureStats:
    """See `regfast.ops.feature_stats`."""
    if 0 <= ignore_index < len(centers):
        labels = torch.where(labels == ignore_index, -1, labels)  # otherwise out of range as it is
    check_dtype("features", features)
    predictions = None if predictions is None else predictions.contiguous()
    out = _FeatureStats.apply(rows_of(features), rows_of(centers.detach()), labels.contiguous(), predictions)
    return FeatureStats(out[0], out[1], None if predictions is None else out[2])


class _FeatureStats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, centers: Tensor, labels: Tensor, predictions: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, centers, labels, predictions)
        ctx.set_materialize_grads(False)
        run = _forward_op if torch.compiler.is_compiling() else _forward
        return tuple(run(features, centers, labels, predictions).unbind())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if not torch.compiler.is_compiling():
            check_first()
        return features_backward(*ctx.saved_tensors, *grads), None, None, None


def features_backward(
    features: Tensor,
    centers: Tensor | None,
    labels: Tensor,
    predictions: Tensor | None,
    grad_rms: Tensor | None,
    grad_cosine: Tensor | None,
    grad_predicted: Tensor | None,
) -> Tensor:
    """Gradient on the features (B, d); a gradient that is None counts as 0."""
    given = (grad_rms, grad_cosine, grad_predicted)
    if not torch.compiler.is_compiling() and batched(*given):  # the gradient of each output, times what came in
        terms = []
        for i, g in enumerate(given):
            if g is not None:
                unit: list[Tensor | None] = [None, None, None]
                unit[i] = features.new_ones(len(features), dtype=torch.float32)
                terms.append(features_backward(features, centers, labels, predictions, *unit) * g.unsqueeze(1))
        return sum(terms[1:], terms[0])
    grads = [
        features.new_zeros(len(features), dtype=torch.float32) if grad is None else grad.contiguous() for grad in given
    ]
    run = _backward_op if torch.compiler.is_compiling() else _backward
    return run(features, centers, labels, predictions, *grads)


def _shape(features: Tensor) -> dict[str, int]:
    return {"ROWS": _ROWS, "BLOCK_D": feature_block(features.shape[1], _ROWS), "num_warps": 4}


def _forward(features: Tensor, centers: Tensor, labels: Tensor, predictions: Tensor | None) -> Tensor:
    batch, width = features.shape
    out = features.new_empty((3, batch), dtype=torch.float32)
    launch(
        feature_stats_kernel, triton.cdiv(batch, _ROWS), features.device,
        features, centers, labels, predictions, out, batch,
        K=len(centers), D=width, FEATURES_STRIDE=features.stride(0), CENTERS_STRIDE=centers.stride(0),
        **_shape(features),
    )  # fmt: skip
    return out


def _backward(
    features: Tensor,
    centers: Tensor | None,
    labels: Tensor,
    predictions: Tensor | None,
    grad_rms: Tensor,
    grad_cosine: Tensor,
    grad_predicted: Tensor,
) -> Tensor:
    batch, width = features.shape
    grad = features.new_empty(batch, width)
    launch(
        feature_stats_backward_kernel, triton.cdiv(batch, _ROWS), features.device,
        features, centers, labels, predictions, grad_rms, grad_cosine, grad_predicted, grad, batch,
        K=1 if centers is None else len(centers), D=width, FEATURES_STRIDE=features.stride(0),
        CENTERS_STRIDE=0 if centers is None else centers.stride(0), **_shape(features),
    )  # fmt: skip
    return grad


_forward_op = torch.library.custom_op("regfast_triton::feature_stats", _forward, mutates_args=())
_backward_op = torch.library.custom_op("regfast_triton::feature_stats_backward", _backward, mutates_args=())


@_forward_op.register_fake
def _(features, *rest):
    return features.new_empty((3, features.shape[0]), dtype=torch.float32)


@_backward_op.register_fake
def _(features, *rest):
    return features.new_empty(features.shape)
