"""The same attacks by everyone: functions (model, images, labels) → adversarial images, at the same budget.

A peer that is not installed is left out and named. The reference AutoAttack (not on PyPI) and adv-lib are found on
PYTHONPATH, or where --reference-path and --adv-lib-path point.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.attacks.setting import Counted, Outcome
from regfast.attacks.base import Runnable
from regfast.models import _torchvision  # noqa: F401 (peers import torchvision)

Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]
BATCH = 250


def find(paths: Iterable[Path | None]) -> None:
    """Let peers be imported from checkouts."""
    sys.path.extend(str(path) for path in paths if path is not None)


def available(module: str) -> bool:
    """Whether a peer can be imported; says so if not."""
    try:
        importlib.import_module(module)
    except Exception as error:  # not there, or built for another torch
        print(f"{module} is left out: {type(error).__name__}: {error}")
        return False
    return True


def ours(who: str, attack: Runnable, model: nn.Module, images: Tensor, labels: Tensor, **options: object) -> Outcome:
    """regfast's attack; it counts for itself, as it works on a copy of the model."""
    result, clock = timed(lambda: attack.run(model, images, labels, **options))
    return Outcome(who, result.robust_accuracy, int(result.queries.sum()), int(result.gradients.sum()), 0, *clock)


def theirs(who: str, peer: Peer, model: nn.Module, images: Tensor, labels: Tensor) -> Outcome:
    """A peer's attack on all images in batches, as users call it; robust accuracy is of the images it returns."""
    counted = Counted(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # as a loaded model has it
    adversarial, clock = timed(
        lambda: torch.cat([peer(counted, x, y) for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True)])
    )
    with torch.no_grad():
        right = torch.cat([model(x).argmax(1) for x in adversarial.split(BATCH)]) == labels
        right &= torch.cat([model(x).argmax(1) for x in images.split(BATCH)]) == labels
    accuracy = right.double().mean().item()
    return Outcome(who, accuracy, counted.queries, counted.gradients, counted.weights, *clock)


def timed(call: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """What `call` gives, and its seconds, until a GPU is done too: of the wall and of the processor."""
    start, cpu = time.perf_counter(), time.process_time()
    value = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return value, (time.perf_counter() - start, time.process_time() - cpu)


def pgd(eps: float, steps: int, size: float) -> dict[str, Peer]:
    """Linf PGD from a random start."""
    peers: dict[str, Peer] = {}
    if available("torchattacks"):
        import torchattacks

        peers["torchattacks"] = lambda m, x, y: torchattacks.PGD(m, eps=eps, alpha=size, steps=steps)(x, y)
    if available("foolbox"):
        import foolbox

        def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
            attack = foolbox.attacks.LinfPGD(abs_stepsize=size, steps=steps)
            return attack(wrapped, images, labels, epsilons=eps)[1]

        peers["foolbox"] = run
    return peers


def apgd(eps: float, steps: int) -> dict[str, Peer]:
    """Linf APGD on cross-entropy, one start."""
    peers: dict[str, Peer] = {}
    if available("autoattack"):
        from autoattack.autopgd_base import APGDAttack

        peers["reference"] = lambda m, x, y: APGDAttack(
            m, n_iter=steps, norm="Linf", eps=eps, loss="ce", device=str(x.device), seed=0
        ).perturb(x, y)
    if available("adv_lib.attacks.auto_pgd"):
        from adv_lib.attacks.auto_pgd import apgd as run

        peers["adv-lib"] = lambda m, x, y: run(m, x, y, eps=eps, norm=float("inf"), n_iter=steps, loss_function="ce")
    if available("torchattacks"):
        import torchattacks

        peers["torchattacks"] = lambda m, x, y: torchattacks.APGD(m, eps=eps, steps=steps)(x, y)
    return peers


def autoattack(eps: float, stages: list[str] | None = None) -> dict[str, Peer]:
    """AutoAttack standard, linf. The reference can be run stage by stage; torchattacks' uses 10 steps a stage."""
    peers: dict[str, Peer] = {}
    if available("autoattack"):
        from autoattack import AutoAttack

        def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            device = str(images.device)
            attack = AutoAttack(model, norm="Linf", eps=eps, seed=0, device=device, verbose=False)
            attack.attacks_to_run = list(stages or attack.attacks_to_run)
            return attack.run_standard_evaluation(images, labels, bs=BATCH)

        peers["reference"] = run
    if stages is None and available("torchattacks"):
        import torchattacks

        peers["torchattacks"] = lambda m, x, y: torchattacks.AutoAttack(m, eps=eps, n_classes=10)(x, y)
    return peers
