"""One optimizer step: forward and backward of a batch in parts, loss scale, moving average."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from regfast.attacks import Adversary
from regfast.functional import Target
from regfast.models import SplitClassifier
from regfast.ops.soft_cross_entropy import SampleStats
from regfast.training.ranks import Ranks
from regfast.training.recipe import PRECISIONS, Recipe
from regfast.training.regularizers import Context, Regularizer


class Split(nn.Module):
    """Features (B, d) and logits (B, K) of images from one call, which can be compiled and wrapped."""

    def __init__(self, model: SplitClassifier):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (B, C, H, W) in [0, 1]."""
        features = self.model.features(images)
        return features, self.model.head(features)


class Stepper:
    """Steps of one training: called with a batch it moves `model`, whose weights change in place.

    Attributes:
        judged: what is measured and kept: the moving average where the recipe asks for one, else the model itself.
    """

    def __init__(
        self,
        model: SplitClassifier,
        regularizer: Regularizer,
        recipe: Recipe,
        context: Context,
        adversary: Adversary | None = None,
        ranks: Ranks | None = None,
    ):
        self._ranks = ranks or Ranks(0, 1, model.head.weight.device)
        self._model, self._regularizer, self._recipe = model, regularizer, recipe
        self._context, self._adversary = context, adversary
        self._device = model.head.weight.device
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.sync_batchnorm:
            if self._device.type != "cuda":
                raise ValueError(f"sync_batchnorm is for GPUs, the model is on {self._device}")
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self._optimizer = recipe.optimizer(model)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=recipe.precision == "fp16")
        self._average: AveragedModel | None = None
        if recipe.ema:
            self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
        self._network: Any = Split(model)
        if self._ranks.size > 1:
            self._network = DistributedDataParallel(
                self._network, [self._device] if self._device.type == "cuda" else None
            )
        if recipe.compile:
            self._network = torch.compile(self._network)
        self.judged = model if self._average is None else cast(SplitClassifier, self._average.module)

    def __call__(self, images: Tensor, target: Target, rate: float, whole: int | None = None) -> Tensor:
        """One step at learning rate `rate`, on the device.

        Mean loss, RMS and cosine of the batch (3,) float32; where `whole` says how many images the batch has on all
        ranks, what this rank adds to them.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        found = torch.zeros(3, device=self._device)
        parts = min(self._recipe.accumulate, max(1, len(images) // 2))
        size = self._ranks.size
        for part, rows in enumerate(torch.arange(len(images), device=self._device).tensor_split(parts), 1):
            waits = self._network.no_sync() if size > 1 and part < parts else nullcontext()
            with waits:
                loss, stats = self._forward(*((images, target) if parts == 1 else (images[rows], target[rows])))
                share = len(rows) / (whole or len(images))
                self._scaler.scale(loss * (share * size)).backward()  # the ranks' gradients are averaged
            found += torch.stack([loss, stats.rms.mean(), stats.cosine.mean()]).detach() * share
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average:
            self._average.update_parameters(self._model)
        return found

    def state(self) -> dict[str, Any]:
        """What `load` takes to go on from here to the bit."""
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self._average.state_dict() if self._average else {},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        if self._average:
            self._average.load_state_dict(state["average"])

    def _forward(self, images: Tensor, target: Target) -> tuple[Tensor, SampleStats]:
        context = self._context
        if self._recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if self._adversary is not None:
            images = self._adversary(self._model, images, target)
        context.images, context.stats = images, None
        low = PRECISIONS[self._recipe.precision]
        with torch.autocast(self._device.type, low, enabled=low != torch.float32):
            features, logits = (answer.float() for answer in self._network(images))
        loss = self._regularizer.loss(logits, target, features, context)
        return loss, context.stats or self._stats(logits, target, features)

    @torch.no_grad()
    def _stats(self, logits: Tensor, target: Target, features: Tensor) -> SampleStats:
        """What the curves need of a batch whose loss did not ask for statistics."""
        return self._context.cross_entropy(logits, target, features)[1]
