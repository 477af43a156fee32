"""The four stages of AutoAttack's standard version against the reference's, in one run: evaluations and processor time.

The adversarially trained ResNet-20 at 4/255. regfast and the reference take turns at every stage, on the samples that
the reference's stages before left, and the samples that fall are compared. The processor seconds of either model alone
(a forward pass, one with an input gradient) are what no attack can go below.

    python -m benchmarks.attacks.standard --reference-path CHECKOUT [--samples 50] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.attacks import peers
from benchmarks.attacks.peers import theirs, timed
from benchmarks.attacks.setting import Outcome, network, samples
from regfast.attacks import AutoAttack, PreparedModel
from regfast.attacks.base import Attack

RESULTS = Path(__file__).parents[1] / "results" / "cpu-standard.json"
EPS = 4 / 255


def stage(attack: Attack, model: nn.Module, left: Tensor, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """One stage by regfast and by the reference on the samples `left`: its part of the result file."""
    images, labels, found = images[left], labels[left], {}
    (reference,) = peers.autoattack(EPS, [attack.name]).values()

    def by_reference(*given: Any) -> Tensor:
        found["reference"] = reference(*given)
        return found["reference"]

    result, clock = timed(lambda: attack.run(model, images, labels, sample_ids=left))
    found["regfast"] = result.images
    spent = int(result.queries.sum()), int(result.gradients.sum())
    rows = [
        Outcome("regfast", result.robust_accuracy, *spent, 0, *clock),
        theirs("reference", by_reference, model, images, labels),
    ]
    with torch.no_grad():
        fallen = {who: left[model(points).argmax(1) != labels].tolist() for who, points in found.items()}
    return {"left": len(left), "fallen": fallen, "rows": [row.row() for row in rows]}


def alone(model: nn.Module, images: Tensor, repeats: int = 5) -> dict[str, float]:
    """Processor seconds of an image: a forward pass, and one with an input gradient, by the model and its copy."""

    def forward(ask: Callable[[Tensor], Tensor]) -> None:
        with torch.no_grad():
            ask(images)

    def gradient(ask: Callable[[Tensor], Tensor]) -> None:
        point = images.clone().requires_grad_()
        torch.autograd.grad(ask(point).sum(), point)

    model.requires_grad_(False)
    search = PreparedModel(model, images).search
    calls = {
        f"{who} {what.__name__}": (what, ask)
        for who, ask in (("model", model), ("copy", search)) for what in (forward, gradient)
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, (call, ask) in calls.items():
            began = time.process_time()
            call(ask)
            seconds[name].append((time.process_time() - began) / len(images))
    model.requires_grad_(True)  # as a loaded model has it
    return {name: statistics.median(each) for name, each in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-path", type=Path, help="checkout of fra31/auto-attack")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    peers.find([options.reference_path])
    if not peers.available("autoattack"):
        parser.error("needs the reference: --reference-path")
    model, (images, labels) = network("robust").eval(), samples(options.samples)
    with torch.no_grad():
        left = (model(images).argmax(1) == labels).nonzero().squeeze(1)
    stages: dict[str, Any] = {}
    found: dict[str, Any] = {
        "eps": EPS, "samples": options.samples, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "alone_s": alone(model, images[left]), "stages": stages,
    }  # fmt: skip
    print(found["alone_s"], flush=True)
    for attack in AutoAttack("linf", EPS).stages():
        stages[attack.name] = part = stage(attack, model, left, images, labels)
        part["load"] = round(os.getloadavg()[0], 1)
        left = torch.tensor([item for item in left.tolist() if item not in part["fallen"]["reference"]])
        seconds = [sum(each["rows"][who]["cpu_seconds"] for each in stages.values()) for who in (0, 1)]
        found["ratio"] = round(seconds[0] / seconds[1], 3)
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        for row in part["rows"]:
            print(
                f"{attack.name:<8} {row['who']:<10} {part['left']} samples, {len(part['fallen'][row['who']])} fall"
                f"  forwards {row['queries']:6} gradients {row['gradients']:6} (weights {row['weight_gradients']:6})"
                f"  processor {row['cpu_seconds']:7.2f} s",
                flush=True,
            )
    print(f"regfast's share of the reference's processor time: {found['ratio']}")


if __name__ == "__main__":
    main()
