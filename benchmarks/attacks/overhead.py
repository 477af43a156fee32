"""What the lane engine costs beside the model.

Every step of an attack is split into the time inside the model (forward and input gradient) and the rest: objective,
decisions, the attack's move, bookkeeping. Nothing falls, so that all lanes are at work all the time. ResNet-20 with
random weights; medians over steps.

    python -m benchmarks.attacks.overhead [--lanes 256] [--steps 20] [--json results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from unittest import mock

import torch

from regfast.attacks import APGD, PGD, PreparedModel, Square
from regfast.models import load_model, seeded

TINY = 1e-7  # eps at which nothing falls


class Clock:
    """Seconds inside the model, per step; a step begins with the forward pass."""

    def __init__(self, search):
        self.search, self.grad = search, torch.autograd.grad
        self.steps: list[tuple[float, float]] = []  # (when it began, seconds inside the model)

    def forward(self, images):
        began = time.perf_counter()
        logits = self.search(images)
        self.steps.append((began, time.perf_counter() - began))
        return logits

    def backward(self, *args, **options):
        began = time.perf_counter()
        gradient = self.grad(*args, **options)
        at, inside = self.steps[-1]
        self.steps[-1] = (at, inside + time.perf_counter() - began)
        return gradient

    def split(self) -> tuple[float, float]:
        """Median seconds of a step, and of the model in it; the first step (warm-up) and the last are left out."""
        whole = [after[0] - now[0] for now, after in zip(self.steps, self.steps[1:], strict=False)][1:]
        model = [inside for _, inside in self.steps[1:-1]]
        return statistics.median(whole), statistics.median(model)


def measure(attack, prepared: PreparedModel, images, labels, logits) -> tuple[float, float]:
    prepared.check(
        images, labels, gradients=attack.needs == "gradient", losses={attack.loss}
    )  # once, outside the clock
    clock = Clock(prepared.search)
    with mock.patch.object(prepared, "search", clock.forward), mock.patch("torch.autograd.grad", clock.backward):
        attack.run(prepared, images, labels, lanes=len(images), clean_logits=logits)
    return clock.split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    with seeded(0):
        model = load_model("resnet20", num_classes=10).eval()
        images = torch.rand(options.lanes, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
    labels = logits.argmax(1)
    prepared = PreparedModel(model, images)
    attacks = {
        "PGD linf": PGD("linf", TINY, options.steps),
        "PGD l2": PGD("l2", TINY, options.steps),
        "PGD l1": PGD("l1", TINY, options.steps),
        "APGD linf": APGD("linf", TINY, options.steps),
        "APGD l2": APGD("l2", TINY, options.steps),
        "APGD l1": APGD("l1", TINY, options.steps, larger_eps=False),
        "Square linf": Square("linf", TINY, options.steps),
    }
    print(f"ResNet-20, {options.lanes} lanes, {torch.get_num_threads()} threads")
    print(f"{'attack':<14}{'step, ms':>12}{'model, ms':>12}{'beside it':>12}")
    table = {}
    for name, attack in attacks.items():
        step, inside = measure(attack, prepared, images, labels, logits)
        table[name] = {"step_s": step, "model_s": inside, "overhead": step / inside - 1}
        print(f"{name:<14}{1e3 * step:>12.1f}{1e3 * inside:>12.1f}{step / inside - 1:>12.1%}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"lanes": options.lanes, "attacks": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
