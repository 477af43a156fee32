"""What training and transfer attacks ask of an attack: every step on every sample, and a point back for each.

An evaluation (`attack.run`) leaves a sample at the first point that the model gets wrong, and wrong samples alone. Who
trains on such points trains on the model's own boundary, and who carries them to another model finds them weak there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from regfast.attacks.base import Attack
from regfast.attacks.classifier import Model
from regfast.attacks.evaluate import radius
from regfast.attacks.lanes import Lanes, choose, empty_lanes
from regfast.attacks.live import LiveModel, Mode, is_compiled
from regfast.attacks.losses import Objective
from regfast.attacks.prepared import PreparedModel
from regfast.attacks.query import query
from regfast.functional import Target, soft_cross_entropy
from regfast.registry import Configured

__all__ = ["Adversary", "Loss"]

Loss = Callable[[Tensor, Any], Tensor]  # logits (B, K) float32 and labels → (B,)

# What a core of the processor works on at a time, so that the model's activations stay in its cache:
ENTRIES = 100_000  # of images
LEAST = 16  # images; the weights are read anew for each part


class Adversary(Configured):
    """An attack at full strength, for `perturbed = adversary(model, images, labels)` in a training loop.

    Every call starts anew: the draws are keyed by the seed and by how many samples were attacked before. The model is
    asked as it is now, and its flags, statistics, gradients and PyTorch's generators are left as they were found.

    Args:
        attack: PGD, FGSM or APGD: gradient steps in a ball. Give FGSM a random start for training (arXiv 2001.03994).
        keep: "last" point, as in training (Madry et al. 2018), or the "strongest" of all points: of largest loss, ones
            that the model gets wrong before others (where labels are classes); it asks once more, after the last move.
        mode: of the model while it is attacked: "eval" (as TRADES; faster: batch norms are folded), or "train": by the
            batch's statistics and with dropout, as its training forward; parts that the user set to eval stay so.
        loss: what is raised. None: the attack's own for classes, its cross-entropy for soft labels. "kl": divergence
            from the clean prediction (TRADES, arXiv 1901.08573), without labels. Or a function of logits (B, K) float32
            and the labels as given to losses (B,), one a sample.
        seed: of all draws; give each rank its own.
        channels_last: let the model compute channels last, where it gives the same.

    Attributes:
        drawn: samples attacked so far; with the seed it decides the next call's draws. Set it to resume.

    >>> adversary = Adversary(PGD("linf", 8 / 255, steps=7, step_size=2 / 255))
    >>> perturbed = adversary(model, images, labels)

    Raises:
        ValueError, TypeError: for an attack of another kind, and unknown options.
    """

    def __init__(
        self,
        attack: Attack,
        *,
        keep: Literal["last", "strongest"] = "last",
        mode: Mode = "eval",
        loss: Literal["kl"] | Loss | None = None,
        seed: int = 0,
        channels_last: bool = True,
    ):
        if not isinstance(attack, Attack) or attack.needs != "gradient" or attack.minimal_norm:
            raise TypeError(f"attack must be PGD, FGSM or another that takes gradient steps in a ball, got {attack!r}")
        if keep not in ("last", "strongest"):
            raise ValueError(f"keep must be 'last' or 'strongest', got {keep!r}")
        if not (loss is None or loss == "kl" or callable(loss)):
            raise ValueError(f"loss must be 'kl', a function of logits and labels, or None, got {loss!r}")
        if attack.runs > 1 and keep == "last":
            raise ValueError(f"{attack.runs} restarts need keep='strongest': the last point is of the last one")
        if loss == "kl" and not getattr(attack, "random_start", True):
            raise ValueError("loss 'kl' needs an attack with a random start: it has no gradient at the clean image")
        if getattr(attack, "targets", 0):
            raise ValueError(f"targets are given at the call, the attack must have none, got {attack!r}")
        if not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, got {seed!r}")
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed must lie in [0, 2^64), got {seed}")
        self.attack, self.keep, self.loss, self.seed = attack, keep, loss, seed
        self.drawn = 0
        self._live = LiveModel(mode, channels_last)

    def __call__(
        self,
        model: Model | PreparedModel,
        images: Tensor,
        labels: Target | None = None,
        *,
        targets: Tensor | None = None,
        clean_logits: Tensor | None = None,
    ) -> Tensor:
        """Perturbed images (B, …): detached, inside ball and box.

        Args:
            model: any callable from images in [0, 1] to logits (B, K), or to a dict or object with `logits`. A
                `PreparedModel` is asked in its search form.
            images: (B, …) float32 or float64 in [0, 1], on the model's device; left as they are. Under autocast the
                model computes in its precision.
            labels: classes (B,) int64, or soft labels: `SoftTargets` or (B, K) floating. A loss of your own takes what
                it likes, "kl" none.
            targets: (B,) int64 classes to move to, instead of away from the labels.
            clean_logits: (B, K) of the unperturbed images, which "kl" needs: saves its forward pass.

        Raises:
            ValueError, TypeError: for images, labels or a loss of the wrong shape, type or range.
            IndexError: classes out of range, on CPU.
        """
        self._check(images, labels, targets)
        if len(images) == 0:
            return images.clone()
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone() if images.is_inference() else images.detach()
            eps = radius(self.attack, images)
            lanes = empty_lanes(
                images, len(images), images.device, seed=self.seed, stage=0, has_target=targets is not None,
                must_reach=targets is not None, eps=eps,
            )  # fmt: skip
            lanes.image = images
            lanes.sample = torch.arange(self.drawn, self.drawn + len(images), device=images.device)
            if targets is not None:
                lanes.target = targets
            elif isinstance(labels, Tensor) and _are_classes(labels):
                lanes.label = labels
            key = (self.seed * 0x9E3779B97F4A7C15 + self.drawn) % (1 << 63)
            self.drawn += len(images)
            if isinstance(model, PreparedModel):
                return self._in_parts(model.search, lanes, labels, clean_logits, whole=model.compiled)
            with self._live(model, images, key) as ask:
                return self._in_parts(ask, lanes, labels, clean_logits, whole=is_compiled(model))

    def _in_parts(self, ask: Model, lanes: Lanes, labels: Any, clean_logits: Tensor | None, *, whole: bool) -> Tensor:
        """Attack all lanes, on a processor a part after the other, where none needs to know of the others."""
        size = max(ENTRIES // max(lanes.image[0].numel(), 1), LEAST) * torch.get_num_threads()
        whole |= not lanes.image.is_cpu or self._live.mode == "train" or callable(self.loss)
        if whole or size >= len(lanes):
            return self._run(ask, lanes, labels, clean_logits)
        parts = []
        for rows in torch.arange(len(lanes)).chunk(-(-len(lanes) // size)):
            known = None if clean_logits is None else clean_logits[rows]
            mine = labels[rows] if self.loss is None and not lanes.must_reach else None
            parts.append(self._run(ask, lanes.take(rows), mine, known))
        return torch.cat(parts)

    def _run(self, ask: Model, lanes: Lanes, labels: Any, clean_logits: Tensor | None) -> Tensor:
        attack, strongest = self.attack, self.keep == "strongest"
        if self.loss == "kl":  # less the clean prediction's entropy, a constant: cross-entropy towards that prediction
            labels = (ask(lanes.image) if clean_logits is None else clean_logits).detach().float().softmax(1)
        own = lanes.must_reach or (self.loss is None and _are_classes(labels))
        objective = None if own else lambda logits: self._objective(logits, labels)
        state, everyone = attack.state(lanes), torch.arange(len(lanes), device=lanes.image.device)
        best = lanes.image.clone() if strongest else lanes.image
        best_fools, best_loss = lanes.full(False), lanes.full(-torch.inf)
        for run in range(attack.runs):
            lanes.run, lanes.step = torch.full_like(lanes.run, run), torch.zeros_like(lanes.step)
            attack.start(lanes, state, everyone)
            for step in range(attack.steps + strongest):
                answer, _ = query(
                    attack, ask, lanes, state, gradient=step < attack.steps, some_end=False, objective=objective
                )
                if strongest:
                    fools = lanes.succeeded(answer.prediction) & own
                    better = (fools & ~best_fools) | ((fools == best_fools) & (answer.loss > best_loss))
                    may = attack.hit(lanes, state, answer)  # APGD in l1 begins in larger balls
                    better = better if may is None else better & may
                    best = choose(better, lanes.point, best)
                    best_fools, best_loss = (
                        torch.where(better, now, before)
                        for now, before in ((fools, best_fools), (answer.loss, best_loss))
                    )
                if step < attack.steps:
                    attack.advance(lanes, state, answer)
                    lanes.step = lanes.step + 1
        return best if strongest else lanes.point

    def _objective(self, logits: Tensor, labels: Any) -> Objective:
        """Losses that the attack does not know."""
        with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
            logits.requires_grad_()
            if callable(self.loss):
                loss = self.loss(logits, labels)
            else:
                loss = soft_cross_entropy(logits, labels, reduction="none")
        if not isinstance(loss, Tensor) or loss.shape != logits.shape[:1]:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must give one value a sample, ({len(logits)},), got {got}: leave its mean out")
        (slope,) = torch.autograd.grad(loss, logits, torch.ones_like(loss))
        return Objective(loss.detach().float(), logits.detach().argmax(1), slope)

    def _check(self, images: Tensor, labels: Any, targets: Tensor | None) -> None:
        if not isinstance(images, Tensor) or images.dtype not in (torch.float32, torch.float64):
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(
                f"images must be a float32 or float64 tensor (the model may run under autocast), got {kind}"
            )
        if len(images) and (images.is_cpu or self.drawn == 0):  # on a GPU looking means waiting: only once
            low, high = images.aminmax()
            if not (low >= 0 and high <= 1):  # NaN is neither
                raise ValueError(
                    f"images must lie in [0, 1], got [{float(low):.3g}, {float(high):.3g}]: put the normalization into "
                    "the model"
                )
        if targets is not None and not isinstance(targets, Tensor):
            raise TypeError(f"targets must be a tensor, got {type(targets).__name__}")
        if targets is not None and (targets.dtype != torch.int64 or targets.shape != images.shape[:1]):
            raise ValueError(f"targets must be ({len(images)},) int64, got {tuple(targets.shape)} {targets.dtype}")
        if self.loss is not None or targets is not None:
            return
        if labels is None:
            raise ValueError("labels must be given: only loss='kl' does without")
        if _are_classes(labels) and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise TypeError(f"labels must be integer classes (B,), or soft labels (B, K), got {labels.dtype} (B,)")
        if len(labels) != len(images):
            raise ValueError(f"labels must be {len(images)}, one for each image, got {len(labels)}")
        if not _are_classes(labels) and self.attack.loss != "ce":
            raise ValueError(f"soft labels go with cross-entropy, not with the attack's loss {self.attack.loss!r}")


def _are_classes(labels: Any) -> bool:
    return isinstance(labels, Tensor) and labels.ndim == 1
