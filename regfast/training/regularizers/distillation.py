"""Distillation from a trained network: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from regfast.functional import Target, soft_cross_entropy
from regfast.models import SplitClassifier, load_model, read_checkpoint
from regfast.training.regularizers.base import Context, Regularizer, checked_range, register


@register("distillation")
class Distillation(Regularizer):
    """Cross-entropy to a teacher's probabilities beside that to the labels.

    Args:
        checkpoint: file of the teacher's weights.
        model: the teacher's model by name; by default it is built as the student is.
        temperature: T > 0 by which both networks' logits are divided; its term is scaled by T², as in the paper.
        share: of the teacher's term, in [0, 1].

    Raises:
        ValueError: for values out of range, and where the checkpoint does not fit.
    """

    label = "Distillation"

    def __init__(self, checkpoint: str, model: str | None = None, temperature: float = 4.0, share: float = 0.9):
        self.checkpoint, self.model = checkpoint, model
        self.temperature = checked_range("temperature", temperature, 0, open_low=True)
        self.share = checked_range("share", share, 0, 1)
        self._teacher: SplitClassifier | None = None

    def loss(self, logits: Tensor, target: Target, features: Tensor, context: Context) -> Tensor:
        """`(1 - share) · CE(labels) + share · T² · CE(teacher / T)`: the gradient of the KL divergence."""
        assert context.images is not None
        if self._teacher is None:
            self._teacher = self._load(context)
        with torch.no_grad():
            taught = (self._teacher(context.images).float() / self.temperature).softmax(1)
        own, _ = context.cross_entropy(logits, target, features)
        from_teacher = soft_cross_entropy(logits / self.temperature, taught) * self.temperature**2
        return (1 - self.share) * own + self.share * from_teacher

    def _load(self, context: Context) -> SplitClassifier:
        student, images = context.model, context.images
        assert images is not None
        if self.model is None:
            teacher = copy.deepcopy(student)
            teacher.load_network_state(read_checkpoint(self.checkpoint), self.checkpoint)
        else:
            teacher = load_model(
                self.model, self.checkpoint, num_classes=student.num_classes, in_channels=images.shape[1]
            )
        return teacher.to(images.device).eval()
