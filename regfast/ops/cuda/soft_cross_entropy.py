"""Soft-label cross-entropy by csrc/cuda. The statistics are Triton's."""

from regfast.ops.native.soft_cross_entropy import soft_cross_entropy

__all__ = ["soft_cross_entropy"]
