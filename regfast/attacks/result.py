"""What an attack gives back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import Tensor


@dataclass(repr=False)
class AttackResult:
    """What an attack did to N samples, in the order they came; tensors on the device of the images.

    Attributes:
        images: (N, C, H, W) the adversarial image where `success`; elsewhere the last point asked, or the clean image
            (from ensembles, minimal-norm attacks, and where `targets` were given).
        success: (N,) bool: was right, now wrong (reached the target, where `targets` were given).
        robust: (N,) bool: right on the clean image and still right.
        clean: (N,) bool: right on the clean image.
        prediction: (N,) int64 class of `images` by the float32 model as given.
        clean_prediction: (N,) int64 class of the clean images; -1 where a logit is NaN.
        stage: per sample "clean" (wrong from the start), the attack that broke it, or "" (robust).
        late: (N,) bool: broken in the second half of what the stage that broke it spends on a sample that stands.
            Where the last stages of an ensemble still break samples so late, longer ones may break more.
        gradients: (N,) int64 input gradients that the sample asked for.
        queries: (N,) int64 forward passes spent on it, those of gradients and confirmations included.
        distance: (N,) float32 norm of the perturbation in `images`.
        loss: (N,) float32 the attack's objective at `images`; NaN where it was not asked.
    """

    images: Tensor
    success: Tensor
    robust: Tensor
    clean: Tensor
    prediction: Tensor
    clean_prediction: Tensor
    stage: list[str]
    late: Tensor
    gradients: Tensor
    queries: Tensor
    distance: Tensor
    loss: Tensor

    def __repr__(self) -> str:
        right, robust = int(self.clean.sum()), int(self.robust.sum())
        broken = Counter(stage for stage in self.stage if stage not in ("", "clean"))
        by = f" ({', '.join(f'{count} by {stage}' for stage, count in broken.most_common())})" if broken else ""
        spent = f"{int(self.gradients.sum())} gradients, {int(self.queries.sum())} forward passes"
        return f"AttackResult({len(self.stage)} samples: {right} right, {robust} robust{by}; {spent})"

    @property
    def robust_accuracy(self) -> float:
        """Share of all samples still classified correctly."""
        return self.robust.double().mean().item()

    @property
    def success_rate(self) -> float:
        """Share of the correctly classified samples that the attack flips (ASR); NaN if none was right."""
        return (self.success.sum() / self.clean.sum()).item()
