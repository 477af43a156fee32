"""Training adversaries: the loop that people write, against `Adversary`, at batch 128.

Time of one call, in turns with the plain loop, on three networks and in both modes of the model; what a step costs
beside the model; and the floor: the ratio that the model's own forwards and gradients alone would have. The plain loop
is Madry's with `torch.autograd.grad` for the images alone; with --backward, as it is also found, `loss.backward()`,
which computes weight gradients too.

    python -m benchmarks.attacks.adversary [--repeats 5] [--json results.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.attacks.overhead import Clock
from regfast.attacks import PGD, Adversary
from regfast.models import load_model, seeded

EPS, SIZE, STEPS, BATCH = 8 / 255, 2 / 255, 7, 128


def plain(model: nn.Module, images: Tensor, labels: Tensor, backward: bool) -> Tensor:
    """PGD as training scripts have it."""
    point = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        point = point.detach().requires_grad_()
        loss = F.cross_entropy(model(point), labels)
        if backward:
            model.zero_grad()
            loss.backward()
            gradient = point.grad
        else:
            (gradient,) = torch.autograd.grad(loss, point)
        point = point.detach() + SIZE * gradient.sign()
        point = torch.min(torch.max(point, images - EPS), images + EPS).clamp(0, 1)
    return point


def cnn(stride: int = 1) -> nn.Module:
    """Four convolutions with batch norm, for 32×32 images; `stride` of the first."""
    widths = [3, 32, 64, 128, 128]
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Conv2d(before, after, 3, 2 if place else stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (4 // stride) ** 2, 10))


def networks() -> dict[str, tuple[nn.Module, tuple[int, int, int]]]:
    """Name to model and image shape."""
    with seeded(0):
        return {
            "digits CNN": (load_model("small-cnn", in_channels=1), (1, 8, 8)),
            "CIFAR CNN": (cnn(), (3, 32, 32)),
            "ResNet-20": (load_model("resnet20"), (3, 32, 32)),
        }


def beside(adversary: Adversary, model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Seconds a step spends outside the model: the whole call, less forward passes and gradients, by steps."""
    clock = Clock(model.forward)
    with mock.patch.object(model, "forward", clock.forward), mock.patch("torch.autograd.grad", clock.backward):
        began = time.perf_counter()
        adversary(model, images, labels)
        whole = time.perf_counter() - began
    return (whole - sum(inside for _, inside in clock.steps)) / STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backward", action="store_true", help="the plain loop calls loss.backward()")
    parser.add_argument("--json", type=Path, help="write the table there too")
    options = parser.parse_args()
    print(f"PGD-{STEPS}, batch {BATCH}, {torch.get_num_threads()} threads; processor seconds of a call, medians")
    columns = ("plain", "regfast", "ratio", "least", "most", "floor", "beside, µs")
    print(f"{'network':<12}{'mode':<8}" + "".join(f"{column:>12}" for column in columns))
    table = []
    for name, (model, shape) in networks().items():
        images, labels = torch.rand(BATCH, *shape), torch.randint(10, (BATCH,))
        for mode in ("eval", "train"):
            model.train(mode == "train")
            adversary = Adversary(PGD("linf", EPS, STEPS, step_size=SIZE), mode=mode)
            adversary(model, images, labels)  # finds the model's form, warms up
            plain(model, images, labels, options.backward)
            times: dict[str, list[float]] = {"plain": [], "regfast": []}
            for _ in range(options.repeats):
                for who in times:
                    began = time.process_time()
                    if who == "plain":
                        plain(model, images, labels, options.backward)
                    else:
                        adversary(model, images, labels)
                    times[who].append(time.process_time() - began)
            ratios = [ours / theirs for theirs, ours in zip(*times.values(), strict=True)]
            extra = statistics.median(beside(adversary, model, images, labels) for _ in range(options.repeats))
            medians = {who: statistics.median(each) for who, each in times.items()}
            figures = {
                **medians, "ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
                "floor": statistics.median(ratios) * (1 - STEPS * extra / medians["regfast"]),
            }  # fmt: skip
            table.append({"network": name, "mode": mode, **figures, "beside_s": extra})
            told = "".join(f"{figure:>12.3f}" for figure in figures.values())
            print(f"{name:<12}{mode:<8}{told}{1e6 * extra:>12.0f}", flush=True)
    if options.json:
        found = {"batch": BATCH, "steps": STEPS, "threads": torch.get_num_threads(), "torch": torch.__version__,
                 "backward": options.backward, "rows": table}  # fmt: skip
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
