"""What `Attack.run` does around the engine: check the input, prepare the model, send survivors through the stages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regfast.attacks.checks import EpsWarning, MaskedGradientWarning, UnsettledWarning, masked, unsettled, warn
from regfast.attacks.classifier import Box, Edge, Model
from regfast.attacks.engine import Engine
from regfast.attacks.lanes import per_lane
from regfast.attacks.losses import predicted
from regfast.attacks.memory import in_parts
from regfast.attacks.prepare import frozen
from regfast.attacks.prepared import PreparedModel
from regfast.attacks.progress import Watcher, watcher
from regfast.attacks.requests import Outcomes, Samples
from regfast.attacks.result import AttackResult
from regfast.attacks.rules import Plan, Rules


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
    cuda_graphs: bool | None,
    bounds: tuple[Edge, Edge] | None,
) -> AttackResult:
    """Run `stages` one after the other on the samples still right; see `Attack.run` for the arguments."""
    given, labels, sample_ids, targets = _checked(images, labels, sample_ids, targets, lanes)
    for name, value, kind in (("seed", seed, int), ("clean_logits", clean_logits, Tensor | None)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {'an integer' if kind is int else 'a tensor'}, got {value!r}")
    for attack in stages:
        attack.check_images(tuple(given.shape))
    radii = [radius(attack, given) for attack in stages]
    if isinstance(model, PreparedModel):
        prepared = model
    else:
        prepared = PreparedModel(
            model, given, precision=precision, channels_last=channels_last, compile=compile, cuda_graphs=cuda_graphs,
            bounds=bounds,
        )  # fmt: skip
    if given.dtype != torch.float64:
        given = given.float()
    images = prepared.box.enter(given)
    prepared.check(
        images, labels, gradients=any(attack.needs != "forward" for attack in stages),
        losses={attack.loss for attack in stages}, averages=all(attack.samples > 1 for attack in stages),
    )  # fmt: skip
    # Outside of any inference mode: lanes need gradients even if the caller does not.
    with torch.inference_mode(False), torch.no_grad(), frozen(prepared.model), watcher(progress) as shown:
        width = lanes or prepared.lanes
        if clean_logits is None:
            samples = max(attack.samples for attack in stages) if prepared.random else 1
            logits = prepared.clean_logits(images, width, samples)
        else:
            logits, samples = clean_logits.detach().to(images.device).float(), 0
        if logits.ndim != 2 or len(logits) != len(images):
            raise ValueError(f"clean_logits must have shape ({len(images)}, K), got {tuple(logits.shape)}")
        for name, classes in (("labels", labels), ("targets", targets)):
            if classes is not None and classes.numel() and int(classes.max()) >= logits.shape[1]:
                most = int(classes.max())
                raise IndexError(f"{name} must be below {logits.shape[1]} (the model's classes), got {most}")
        clean_prediction = predicted(logits) if len(images) else labels.clone()
        clean = clean_prediction == labels
        n = len(images)
        outcomes = Outcomes(
            images=images.clone(),
            broken=torch.zeros_like(clean),
            prediction=clean_prediction.clone(),
            gradients=torch.zeros_like(labels),
            queries=torch.full_like(labels, samples),
            distance=torch.zeros(n, device=images.device),
            loss=torch.full((n,), torch.nan, device=images.device),
        )
        stage_of = ["" if right else "clean" for right in clean.tolist()]
        late = torch.zeros_like(clean)
        for place, attack in enumerate(stages):
            survivors = (clean & ~outcomes.broken).nonzero().squeeze(1)
            if not len(survivors):
                break
            goals = targets
            if targets is None:
                goals = _plan(attack, prepared, images, labels, logits, survivors, outcomes, width)
            before = outcomes.queries.clone()
            shown.begin(attack.name, len(survivors))
            engine = Engine(
                attack, prepared, Samples(images, labels, sample_ids, goals, radii[place]), outcomes,
                must_reach=targets is not None, keep_clean=len(stages) > 1 or targets is not None, seed=seed,
                stage=place, width=width, watcher=shown,
            )  # fmt: skip
            engine.run(survivors.tolist())
            width = engine.width
            broken = survivors[outcomes.broken[survivors]].tolist()
            for item in broken:
                stage_of[item] = attack.name
            whole = attack.samples * attack.runs * (1 if goals is None else goals.shape[1]) * (attack.steps + 1)
            late[survivors] = outcomes.broken[survivors] & (2 * (outcomes.queries - before)[survivors] > whole)
            if attack.name in gradient_free(stages):
                warn(MaskedGradientWarning, masked(attack.name, len(broken), len(images)))
    final = last_stages(stages)
    count = sum(name in final for name, yes in zip(stage_of, late.tolist(), strict=True) if yes)
    warn(UnsettledWarning, unsettled(count))
    return AttackResult(
        images=_returned(outcomes.images, images, given, prepared.box),
        success=outcomes.broken,
        robust=clean & ~outcomes.broken,
        clean=clean,
        prediction=outcomes.prediction,
        clean_prediction=clean_prediction,
        stage=stage_of,
        late=late,
        gradients=outcomes.gradients,
        queries=outcomes.queries,
        distance=outcomes.distance,
        loss=outcomes.loss,
    )


def last_stages(stages: Sequence[Rules]) -> set[str]:
    """Names of an ensemble's last stage with gradients and those after it: nobody goes on where they break off."""
    gradients = [place for place, attack in enumerate(stages) if attack.needs != "forward"]
    return {attack.name for attack in stages[max(gradients, default=0) :]} if len(stages) > 1 else set()


def gradient_free(stages: Sequence[Rules]) -> set[str]:
    """Names of the stages that need no gradient and come after some that do."""
    first = next((place for place, attack in enumerate(stages) if attack.needs != "forward"), len(stages))
    return {attack.name for attack in stages[first:] if attack.needs == "forward"}


def _plan(
    attack: Rules, model: PreparedModel, images: Tensor, labels: Tensor, logits: Tensor, survivors: Tensor,
    outcomes: Outcomes, width: int,
) -> Tensor | None:  # fmt: skip
    """Targets (N, T) of the survivors' runs, or None."""

    def of(rows: Tensor) -> Plan | None:
        chunk = (tensor[rows].to(model.device) for tensor in (images.float(), labels, logits))
        return attack.plan(model.search, *chunk)

    plans = [plan for plan in in_parts(of, survivors, width) if plan is not None]
    if not plans:
        return None
    chosen = torch.cat([plan.targets for plan in plans]).to(labels.device)
    goals = labels.new_full((len(labels), chosen.shape[1]), -1)
    goals[survivors] = chosen
    outcomes.gradients[survivors] += plans[0].gradients
    outcomes.queries[survivors] += plans[0].queries
    return goals


def radius(attack: Rules, images: Tensor) -> float | Tensor | None:
    """The attack's eps as `Samples` holds it; tensors of the right shape, on the images' device."""
    eps = attack.eps
    if eps is None or not isinstance(eps, Tensor):
        largest = eps or 0.0
    else:
        eps, largest = eps.to(images.device), float(eps.max()) if eps.numel() else 0.0
        fits = eps.ndim in (1, images.ndim - 1, images.ndim)
        if eps.ndim == images.ndim - 1 != 1:
            eps = eps.unsqueeze(0).expand(len(images), *eps.shape)
        if eps.ndim == images.ndim and eps[:1].numel() == 1:
            eps = eps.flatten()
        shape = images.shape[: eps.ndim]
        if not fits or len(eps) != len(images) or any(n not in (1, m) for n, m in zip(eps.shape, shape, strict=True)):
            raise ValueError(
                f"eps must be a number, ({len(images)},) for one per sample, or have the dimensions of an image "
                f"{tuple(images.shape[1:])} or of all images, got {tuple(eps.shape)}"
            )
        if eps.ndim > 1 and attack.norm.name != "linf":
            raise ValueError(f"eps per channel or feature goes with linf, not with {attack.norm.name}")
    if attack.norm.name == "linf" and largest > 1:
        warn(EpsWarning, f"eps is {largest:g}, more than the whole range of images in [0, 1]: {largest:g}/255?")
    return eps


def _returned(points: Tensor, images: Tensor, given: Tensor, box: Box) -> Tensor:
    """`points` in the user's range; where they are still the clean `images`, to the last bit what was `given`."""
    if not box.given:
        return points
    moved = (points != images).flatten(1).any(1) if points.numel() else points.new_zeros(len(points), dtype=torch.bool)
    return torch.where(per_lane(moved, points), box.leave(points), given)


def _checked(
    images: Tensor, labels: Tensor, sample_ids: Tensor | None, targets: Tensor | None, lanes: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a float tensor (N, C, H, W) in [0, 1], got {kind}")
    if images.ndim < 2:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    images = images.detach()
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
        if targets.ndim != 2 or not targets.shape[1]:
            raise ValueError(f"targets must be ({len(images)},) or ({len(images)}, T), got {tuple(targets.shape)}")
        same = (targets == labels.unsqueeze(1)).any(1)
        if bool(same.any()):
            first = int(same.nonzero()[0, 0])
            raise ValueError(f"targets must be other classes than the labels, but image {first} has its own label")
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
