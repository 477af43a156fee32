"""What an attack's move asks of a GPU beside the model: operations, launches, and waits of the host. Needs no GPU.

Ours run on the device of `device.py`, whose host is one step late as a GPU's is; peers run on the CPU, and every one of
their operations counts as if it were a GPU's. Nothing falls (tiny eps), so that all lanes are at work all the time.

    python -m benchmarks.attacks.launches [--json benchmarks/results/attack-launches.json]
    PYTHONPATH=site:auto-attack python -m benchmarks.attacks.launches       # peers are found there, and left out if not
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.attacks.device import Device, OnDevice
from benchmarks.attacks.peers import available
from regfast.attacks import APGD, DDN, FAB, FMN, PGD, CarliniWagner, PreparedModel, Square
from regfast.attacks.base import Runnable

EPS, STEPS = 1e-6, (8, 16)
CLASSES, SHAPE, IMAGES = 10, (3, 32, 32), 4
Peer = Callable[[nn.Module, Tensor, Tensor], object]


class Linear(nn.Module):
    """One product from images to logits, with its weights where it is told."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T


class Stepping(nn.Module):
    """A model that begins a step of `device` whenever it is asked, and keeps its own operations out of the count."""

    def __init__(self, model: nn.Module, device: Device):
        super().__init__()
        self.model, self.device = model, device

    def forward(self, images: Tensor) -> Tensor:
        self.device.step()
        with self.device.model():
            return self.model(images)


def problem(
    count: int = IMAGES, classes: int = CLASSES, shape: tuple[int, ...] = SHAPE
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a linear model, images and their labels."""
    weight = torch.randn(classes, torch.Size(shape).numel())
    images = 0.5 + 0.1 * torch.randn(count, *shape).clamp(-4, 4)
    return weight, images, Linear(weight)(images).argmax(1)


def counted(attack: Runnable, given: tuple[Tensor, Tensor, Tensor], images_on_device: bool = True) -> Device:
    """The device after a run of `attack` on a problem, with the model on it."""
    weight, images, labels = given
    with Device() as device:
        if images_on_device:
            images, labels = OnDevice(images), OnDevice(labels)
        prepared = PreparedModel(Linear(OnDevice(weight)).eval(), images)
        prepared.search = Stepping(prepared.search, device)  # type: ignore[arg-type]
        with mock.patch("torch.autograd.grad", _in_model(torch.autograd.grad, device)):
            attack.run(prepared, images, labels, lanes=len(images))
    return device


def counted_peer(peer: Peer, given: tuple[Tensor, Tensor, Tensor]) -> Device:
    """The same for a peer, on the CPU."""
    weight, images, labels = given
    with Device(everywhere=True) as device:
        model = Stepping(Linear(weight), device).eval()
        with (
            mock.patch("torch.autograd.grad", _in_model(torch.autograd.grad, device)),
            mock.patch("torch.autograd.backward", _in_model(torch.autograd.backward, device)),
        ):
            peer(model, images, labels)
    return device


def _in_model(call: Callable[..., Any], device: Device) -> Callable[..., Any]:
    def inside(*args: Any, **options: Any) -> Any:
        with device.model():
            return call(*args, **options)

    return inside


def a_move(short: Device, long: Device, moves: int) -> dict[str, Any]:
    """What each of the `moves` costs that `long` made more than `short`: what comes before and after cancels."""

    def more(totals: Callable[[Device], float]) -> float:
        return round((totals(long) - totals(short)) / moves, 1)

    kinds = [sum(device.launches, Counter()) for device in (short, long)]
    return {
        "launches": more(lambda device: sum(sum(step.values()) for step in device.launches)),
        "operations": more(lambda device: sum(device.operations)),
        "waits": more(lambda device: sum(sum(step.values()) for step in device.waits)),
        "kinds": {name: round(count / moves, 1) for name, count in (kinds[1] - kinds[0]).most_common()},
    }


def ours(steps: int) -> dict[str, tuple[Runnable, int]]:
    """Attacks of so many moves a run, and their runs."""
    return {
        "PGD linf": (PGD("linf", EPS, steps), 1),
        "PGD l2": (PGD("l2", EPS, steps), 1),
        "PGD l1": (PGD("l1", EPS, steps), 1),
        "APGD-CE linf": (APGD("linf", EPS, steps), 1),
        "APGD-CE l2": (APGD("l2", EPS, steps), 1),
        "APGD-CE l1": (APGD("l1", EPS, steps, larger_eps=False), 1),
        "APGD-DLR-T linf": (APGD("linf", EPS, steps, loss="dlr", targets=3), 3),
        "FAB-T linf": (FAB("linf", EPS, steps, targets=3), 3),
        "FAB-T l2": (FAB("l2", EPS, steps, targets=3), 3),
        "Square linf": (Square("linf", EPS, steps), 1),
        "Square l2": (Square("l2", EPS, steps), 1),
        "CW l2": (CarliniWagner(1e-9, steps=steps, searches=1), 1),
        "DDN l2": (DDN(1e-9, steps=steps), 1),
        "FMN linf": (FMN("linf", 1e-9, steps=steps), 1),
    }


def theirs(steps: int) -> dict[str, dict[str, tuple[Peer, int]]]:
    """Our attack's name → who else has it, with so many moves a run, and the runs."""
    found: dict[str, dict[str, tuple[Peer, int]]] = {}

    def add(attack: str, who: str, peer: Peer, runs: int = 1) -> None:
        found.setdefault(attack, {})[who] = peer, runs

    if available("torchattacks"):
        import torchattacks as ta

        add("PGD linf", "torchattacks", lambda m, x, y: ta.PGD(m, EPS, EPS / 4, steps)(x, y))
        add("APGD-CE linf", "torchattacks", lambda m, x, y: ta.APGD(m, eps=EPS, steps=steps)(x, y))
        add("Square linf", "torchattacks", lambda m, x, y: ta.Square(m, eps=EPS, n_queries=steps)(x, y))
    if available("foolbox"):
        import foolbox as fb

        def fool(attack: Any, eps: float | None = EPS) -> Peer:
            return lambda m, x, y: attack(fb.PyTorchModel(m, (0, 1), device="cpu"), x, y, epsilons=eps)

        add("PGD linf", "foolbox", fool(fb.attacks.LinfPGD(steps=steps)))
        add("PGD l2", "foolbox", fool(fb.attacks.L2PGD(steps=steps)))
        add("CW l2", "foolbox", fool(fb.attacks.L2CarliniWagnerAttack(1, steps, abort_early=False), None))
        add("DDN l2", "foolbox", fool(fb.attacks.DDNAttack(steps=steps), None))
        add("FMN linf", "foolbox", fool(fb.attacks.LInfFMNAttack(steps=steps), None))
    if available("autoattack"):
        from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
        from autoattack.fab_pt import FABAttack_PT
        from autoattack.square import SquareAttack

        def reference(kind: Any, norm: str, **options: Any) -> Peer:
            def run(model: nn.Module, images: Tensor, labels: Tensor) -> object:
                return kind(model, norm=norm, eps=EPS, seed=0, device="cpu", **options).perturb(images, labels)

            return run

        for norm in ("Linf", "L2", "L1"):
            options = {"use_largereps": False} if norm == "L1" else {}
            add(f"APGD-CE {norm.lower()}", "AutoAttack", reference(APGDAttack, norm, n_iter=steps, **options))
        targeted = reference(APGDAttack_targeted, "Linf", n_iter=steps, n_target_classes=3)
        add("APGD-DLR-T linf", "AutoAttack", targeted, 3)
        for norm in ("Linf", "L2"):
            fab = reference(FABAttack_PT, norm, n_iter=steps, n_target_classes=3, targeted=True)
            add(f"FAB-T {norm.lower()}", "AutoAttack", fab, 3)
            add(f"Square {norm.lower()}", "AutoAttack", reference(SquareAttack, norm, n_queries=steps))
    if available("adv_lib.attacks"):
        import adv_lib.attacks as al

        add("PGD linf", "adv-lib", lambda m, x, y: al.pgd_linf(m, x, y, EPS, steps=steps))
        for name, norm in (("linf", float("inf")), ("l2", 2)):
            options = {"eps": EPS, "norm": norm, "n_iter": steps, "loss_function": "ce"}
            add(f"APGD-CE {name}", "adv-lib", lambda m, x, y, options=options: al.apgd(m, x, y, **options))
        add("CW l2", "adv-lib", lambda m, x, y: al.carlini_wagner_l2(
            m, x, y, binary_search_steps=1, max_iterations=steps, abort_early=False
        ))  # fmt: skip
        add("DDN l2", "adv-lib", lambda m, x, y: al.ddn(m, x, y, steps=steps))
        add("FMN linf", "adv-lib", lambda m, x, y: al.fmn(m, x, y, float("inf"), steps=steps))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    torch.manual_seed(0)
    given, rows = problem(), []
    attacks, peers = [ours(steps) for steps in STEPS], [theirs(steps) for steps in STEPS]
    print("| attack | who | launches | operations | waits |\n|---|---|--:|--:|--:|")

    def tell(attack: str, who: str, count: Callable[[Any, Any], Device], kinds: list[tuple[Any, int]]) -> None:
        try:
            short, long = (count(kind, given) for kind, _ in kinds)
        except Exception as error:  # a peer that fails must not end the run
            print(f"{attack} by {who} is left out: {type(error).__name__}: {error}")
            return
        row = {"attack": attack, "who": who, **a_move(short, long, kinds[0][1] * (STEPS[1] - STEPS[0]))}
        rows.append(row)
        print(f"| {attack} | {who} | {row['launches']} | {row['operations']} | {row['waits']} |", flush=True)

    for name in attacks[0]:
        tell(name, "regfast", counted, [made[name] for made in attacks])
        for who in peers[0].get(name, {}):
            tell(name, who, counted_peer, [made[name][who] for made in peers])
    if options.json:
        about = {"torch": torch.__version__, "images": IMAGES, "shape": SHAPE, "classes": CLASSES}
        options.json.write_text(json.dumps({**about, "a move": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
