"""What an evaluation will cost, from a short probe of this model on this hardware; the attacks are not run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regfast.attacks import PGD
from regfast.attacks.base import Runnable
from regfast.attacks.losses import predicted
from regfast.attacks.prepare import frozen
from regfast.attacks.prepared import classifier_of
from regfast.data import pick_samples
from regfast.evaluation.samples import Dataset, image_shape, load_chunk
from regfast.evaluation.summary import eps_text
from regfast.evaluation.within import answers
from regfast.evaluation.worker import Settings, count_classes, group_by_eps

__all__ = ["EvaluationPlan", "PlannedAttack", "cost_bounds", "duration", "plan_evaluation", "plan_markdown"]

# A sample that falls does so within the first few moves: median 1, 90th percentile 3 on an ordinary ResNet-20.
_MOVES_TO_FALL = 3
_PROBE_STEPS = 10
_PROBE_SECONDS = 30.0  # for PGD on the probed samples, on large models on fewer of them
_TIMED = {False: 8, True: 64}  # images in the batch that is timed, on a CPU and on a GPU


@dataclass(frozen=True)
class PlannedAttack:
    """Expected cost of one attack at one eps: samples attacked and surviving, evaluations, seconds on one worker."""

    attack: str
    norm: str
    eps: float
    attacked: float
    surviving: float
    gradients: float
    queries: float
    seconds: float


@dataclass(frozen=True)
class EvaluationPlan:
    """What `regfast evaluate --plan` prints.

    Attributes:
        samples: of the run; `probed`: how many of them were looked at.
        clean_accuracy: of the probed ones.
        lanes: samples attacked at the same time on one worker.
        forward_seconds, gradient_seconds: one sample's share of a batch of `lanes`; a gradient includes its forward.
        memory_bytes: the model's parameters, and what autograd keeps for `lanes` samples.
        attacks: per attack and eps.
        seconds: in all, on one worker.
    """

    samples: int
    probed: int
    clean_accuracy: float
    lanes: int
    forward_seconds: float
    gradient_seconds: float
    memory_bytes: int
    attacks: list[PlannedAttack]
    seconds: float


def plan_evaluation(
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    attacks: Sequence[Runnable],
    *,
    seed: int = 0,
    limit: int | None = None,
    lanes: int | None = None,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    probe: int = 128,
) -> EvaluationPlan:
    """Expected evaluations, time and memory of `evaluate` with the same arguments.

    The probe times a forward pass and an input gradient on a small batch, and runs PGD with 10 steps on at most `probe`
    random samples at every eps, on fewer where that would take more than half a minute: the share that it leaves
    standing is charged each attack's full cost, the others a few steps. Attacks stronger than PGD leave fewer standing,
    so the plan leans high.

    Raises:
        ValueError: if there is no usable sample to probe.
    """
    device = torch.device(device)
    settings = Settings(device, seed, lanes, precision)
    picked = pick_samples(len(dataset), limit, seed)
    chosen = [picked[index] for index in pick_samples(len(picked), probe, seed + 1)]
    shape = image_shape(dataset, chosen)
    if shape is None:
        raise ValueError("there is no readable sample to probe")
    if isinstance(model, nn.Module):
        model.to(device)
    classes = count_classes(model, shape, device)
    chunk = load_chunk(dataset, chosen, classes, shape)
    images, labels = chunk.images, chunk.labels[chunk.usable]
    if not len(images):
        raise ValueError(f"none of the {len(chosen)} probed samples is usable: {chunk.status[0]}")
    prepared = settings.prepare(model, images)
    search = prepared.search
    width = lanes or prepared.lanes
    correct = predicted(prepared.clean_logits(images, width)) == labels
    accuracy = correct.double().mean().item()

    width = max(1, min(width, round(accuracy * len(picked))))
    timed = min(width, _TIMED[device.type == "cuda"])
    batch = images[torch.arange(timed) % len(images)].to(device)
    forward = _median_seconds(lambda: _forward(search, batch), device) / timed
    gradient = _median_seconds(lambda: _gradient(search, batch), device) / timed
    affordable = int(_PROBE_SECONDS / (len(attacks) * (_PROBE_STEPS + 1) * gradient))
    images, labels, correct = (part[: max(affordable, 8)] for part in (images, labels, correct))

    planned = []
    for group in group_by_eps(attacks):
        attacked = accuracy * len(picked)
        for attack in group:
            eps = float(attack.options["eps"])
            standing = PGD(attack.norm, eps, steps=_PROBE_STEPS).run(
                prepared, images[correct], labels[correct], seed=seed, lanes=lanes
            )
            share = float(standing.robust.double().mean()) if len(standing.robust) else 0.0
            surviving = min(attacked, share * accuracy * len(picked))
            grads, queries = _cost(attack, attacked, surviving, classes)
            seconds = _seconds(grads, queries, forward, gradient)
            planned.append(
                PlannedAttack(attack.name, attack.norm.name, eps, attacked, surviving, grads, queries, seconds)
            )
            attacked = surviving
    return EvaluationPlan(
        samples=len(picked),
        probed=len(images),
        clean_accuracy=accuracy,
        lanes=width,
        forward_seconds=forward,
        gradient_seconds=gradient,
        memory_bytes=_memory(model, search, images[:2].to(device), width),
        attacks=planned,
        seconds=len(picked) * forward + sum(attack.seconds for attack in planned),
    )


def cost_bounds(
    model: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    attacks: Sequence[Runnable],
    samples: int,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Seconds on one worker if every sample falls at the first moves, and if all stand to the end.

    From one forward pass and one gradient of two gray images of `shape` (C, H, W), after one to warm up.
    """
    device = torch.device(device)
    batch = torch.full((2, *shape), 0.5, device=device)
    if isinstance(model, nn.Module):
        model.to(device)
    ask = classifier_of(model, batch[:1])
    with frozen(model):
        forward = _median_seconds(lambda: _forward(ask, batch), device, repeats=1) / 2
        gradient = _median_seconds(lambda: _gradient(ask, batch), device, repeats=1) / 2
        with torch.no_grad():
            classes = ask(batch[:1]).shape[1]
    seconds = []
    for standing in (0.0, float(samples)):
        costs = [_cost(attack, samples, standing, classes) for attack in attacks]
        seconds.append(samples * forward + sum(_seconds(*cost, forward, gradient) for cost in costs))
    return seconds[0], seconds[1]


def _seconds(gradients: float, queries: float, forward: float, gradient: float) -> float:
    return gradients * gradient + max(queries - gradients, 0) * forward


def _cost(attack: Runnable, attacked: float, surviving: float, classes: int) -> tuple[float, float]:
    """Gradients and forward passes of all stages: the fallen pay a few moves of the first, survivors everything."""
    gradients = queries = 0.0
    for place, stage in enumerate(attack.stages()):
        per_answer = {"gradient": stage.samples, "jacobian": classes, "forward": 0}[stage.needs]
        most = answers(stage, classes)
        asked = surviving * most
        if place == 0:
            asked += (attacked - surviving) * min(_MOVES_TO_FALL, most)
        gradients += asked * per_answer
        queries += asked * stage.samples
    return gradients, queries


def _forward(model: Callable[[Tensor], Tensor], images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def _gradient(model: Callable[[Tensor], Tensor], images: Tensor) -> None:
    point = images.clone().requires_grad_()
    answer = model(point).square().sum()
    if answer.requires_grad:  # else only Square can attack it
        torch.autograd.grad(answer, point)


def _median_seconds(call: Callable[[], None], device: torch.device, repeats: int = 5) -> float:
    call()
    taken = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]


def _memory(model: Callable[[Tensor], Tensor], search: Callable[[Tensor], Tensor], images: Tensor, width: int) -> int:
    """Bytes: parameters of the model and its search copy, and what autograd saves per sample, times the lanes."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    known = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        point = images.clone().requires_grad_()
        loss = search(point).sum()
    del loss
    held = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return 2 * held + sum(saved.values()) * width // len(images)


def plan_markdown(plan: EvaluationPlan, workers: int = 1) -> str:
    """The plan as text, for `workers` like this one."""
    lines = [
        f"{plan.samples} samples, clean accuracy about {plan.clean_accuracy:.1%} (from {plan.probed} probed).",
        f"One worker, {plan.lanes} lanes: {1e3 * plan.forward_seconds:.3f} ms a forward pass, "
        f"{1e3 * plan.gradient_seconds:.3f} ms an input gradient (per sample); "
        f"about {plan.memory_bytes / 2**20:.0f} MiB.",
        "",
        "| attack | norm | eps | attacked | surviving | gradients | forwards | time on one worker |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in plan.attacks:
        lines.append(
            f"| {row.attack} | {row.norm} | {eps_text(row.eps)} | {row.attacked:,.0f} | {row.surviving:,.0f} "
            f"| {row.gradients:,.0f} | {row.queries:,.0f} | {duration(row.seconds)} |"
        )
    lines += ["", f"About {duration(plan.seconds)} on one worker, {duration(plan.seconds / workers)} on {workers}."]
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """Seconds for readers: "3.4 minutes"."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
