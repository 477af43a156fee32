"""What `Attack.run` does around the engine: check the input, prepare the model, send survivors through the stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regfast.attacks.engine import Engine
from regfast.attacks.losses import predicted
from regfast.attacks.memory import is_out_of_memory
from regfast.attacks.prepare import Model, frozen
from regfast.attacks.prepared import PreparedModel
from regfast.attacks.progress import Watcher, watcher
from regfast.attacks.requests import Outcomes, Samples
from regfast.attacks.result import AttackResult
from regfast.attacks.rules import Rules


def evaluate(
    stages: Sequence[Rules],
    model: Model | PreparedModel,
    images: Tensor,
    labels: Tensor,
    *,
    seed: int,
    lanes: int | None,
    progress: bool | Watcher,
    sample_ids: Tensor | None,
    targets: Tensor | None,
    clean_logits: Tensor | None,
    precision: str,
    channels_last: bool,
    compile: bool,  # noqa: A002
) -> AttackResult:
    """Run `stages` one after the other on the samples still right; see `Attack.run` for the arguments."""
    images, labels, sample_ids, targets = _checked(images, labels, sample_ids, targets, lanes)
    if isinstance(model, PreparedModel):
        prepared = model
    else:
        prepared = PreparedModel(model, images, precision=precision, channels_last=channels_last, compile=compile)
    device = prepared.device
    prepared.check(
        images, labels, gradients=any(attack.needs != "forward" for attack in stages),
        losses={attack.loss for attack in stages}, averages=all(attack.samples > 1 for attack in stages),
    )  # fmt: skip
    # Outside of any inference mode: lanes need gradients even if the caller does not.
    with torch.inference_mode(False), torch.no_grad(), frozen(prepared.given), watcher(progress) as shown:
        width = lanes or prepared.lanes
        if clean_logits is None:
            logits = _predict(prepared.given, images, width, device)
        else:
            logits = clean_logits.detach().to(images.device).float()
        if logits.ndim != 2 or len(logits) != len(images):
            raise ValueError(f"clean_logits must have shape ({len(images)}, K), got {tuple(logits.shape)}")
        if len(images) and int(labels.max()) >= logits.shape[1]:
            raise IndexError(f"labels must be below {logits.shape[1]} (the model's classes), got {int(labels.max())}")
        clean_prediction = predicted(logits) if len(images) else labels.clone()
        clean = clean_prediction == labels
        n = len(images)
        outcomes = Outcomes(
            images=images.clone(),
            broken=torch.zeros_like(clean),
            prediction=clean_prediction.clone(),
            gradients=torch.zeros_like(labels),
            queries=torch.full_like(labels, clean_logits is None),
            distance=torch.zeros(n, device=images.device),
            loss=torch.full((n,), torch.nan, device=images.device),
        )
        stage_of = ["" if right else "clean" for right in clean.tolist()]
        for place, attack in enumerate(stages):
            survivors = (clean & ~outcomes.broken).nonzero().squeeze(1)
            goals = targets
            if targets is None:
                goals = _plan(attack, prepared, images, labels, logits, survivors, outcomes, width)
            shown.begin(attack.name, len(survivors))
            engine = Engine(
                attack, prepared, Samples(images, labels, sample_ids, goals), outcomes,
                must_reach=targets is not None, keep_clean=len(stages) > 1 or targets is not None, seed=seed,
                stage=place, width=width, watcher=shown,
            )  # fmt: skip
            engine.run(survivors.tolist())
            width = engine.width
            for item in survivors[outcomes.broken[survivors]].tolist():
                stage_of[item] = attack.name
    return AttackResult(
        images=outcomes.images,
        success=outcomes.broken,
        robust=clean & ~outcomes.broken,
        clean=clean,
        prediction=outcomes.prediction,
        clean_prediction=clean_prediction,
        stage=stage_of,
        gradients=outcomes.gradients,
        queries=outcomes.queries,
        distance=outcomes.distance,
        loss=outcomes.loss,
    )


def _predict(model: Model, images: Tensor, width: int, device: torch.device) -> Tensor:
    """Clean logits (N, K) float32 on the images' device."""
    parts, start = [], 0
    while start < len(images):
        try:
            parts.append(model(images[start : start + width].to(device)).to(images.device).float())
            start += width
        except Exception as error:
            if not is_out_of_memory(error) or width == 1:
                raise
            width //= 2
    if parts and parts[0].ndim != 2:
        raise ValueError(f"model must give logits of shape (B, K), got {tuple(parts[0].shape)}")
    return torch.cat(parts) if parts else images.new_zeros(0, 0)


def _plan(
    attack: Rules, model: PreparedModel, images: Tensor, labels: Tensor, logits: Tensor, survivors: Tensor,
    outcomes: Outcomes, width: int,
) -> Tensor | None:  # fmt: skip
    """Targets (N, R) of the survivors' runs, or None."""
    goals = None
    for rows in survivors.split(width):
        chunk = (tensor[rows].to(model.device) for tensor in (images, labels, logits))
        plan = attack.plan(model.search, *chunk)
        if plan is None:
            return None
        if goals is None:
            goals = labels.new_full((len(labels), plan.targets.shape[1]), -1)
        goals[rows] = plan.targets.to(labels.device)
        outcomes.gradients[rows] += plan.gradients
        outcomes.queries[rows] += plan.queries
    return goals


def _checked(
    images: Tensor, labels: Tensor, sample_ids: Tensor | None, targets: Tensor | None, lanes: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a float tensor (N, C, H, W) in [0, 1], got {kind}")
    if images.ndim < 2:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    images = images.detach()
    if images.dtype not in (torch.float32, torch.float64):
        images = images.float()
    finite = images.flatten(1).isfinite().all(1) if images.numel() else torch.ones(len(images), dtype=torch.bool)
    if not finite.all():
        first = int((~finite).nonzero()[0, 0])
        raise ValueError(f"images must be finite, image {first} holds NaN or infinity")
    labels = _classes("labels", labels, len(images)).to(images.device)
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape ({len(images)},), got {tuple(labels.shape)}")
    if sample_ids is None:
        sample_ids = torch.arange(len(images))
    sample_ids = _classes("sample_ids", sample_ids, len(images)).to(images.device)
    if targets is not None:
        targets = _classes("targets", targets, len(images)).to(images.device)
        targets = targets.unsqueeze(1) if targets.ndim == 1 else targets
    if lanes is not None and (not isinstance(lanes, int) or lanes < 1):
        raise ValueError(f"lanes must be an integer ≥ 1, got {lanes!r}")
    return images, labels, sample_ids, targets


def _classes(name: str, values: Tensor, count: int) -> Tensor:
    if not isinstance(values, Tensor) or values.is_floating_point() or values.dtype == torch.bool:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"{name} must be an integer tensor, got {kind}")
    if len(values) != count:
        raise ValueError(f"{name} must have one entry for each of the {count} images, got {len(values)}")
    if values.numel() and int(values.min()) < 0:
        raise IndexError(f"{name} must be ≥ 0, got {int(values.min())}")
    return values.long()
