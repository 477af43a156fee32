"""AutoAttack's `rand` against the reference's, on a model that answers at random: the adversarially trained ResNet-20
behind Gaussian noise on its input.

The reference keeps a point where one answer at it is wrong, and says so of many points that are right on average; so
the points of both are judged alike too, by fresh answers: their mean, and the share that is right.

    python -m benchmarks.attacks.rand --reference FOLDER [--samples 100] [--steps 20] [--out results.json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.attacks import peers
from benchmarks.attacks.setting import network, samples
from regfast.compat import autoattack
from regfast.models import seeded

RESULTS = Path(__file__).parents[1] / "results" / "cpu-rand.json"
EPS = 4 / 255
FRESH = 50  # answers that judge a point


class Noisy(nn.Module):
    """`model` behind noise of this standard deviation on its input."""

    def __init__(self, model: nn.Module, deviation: float):
        super().__init__()
        self.model, self.deviation = model, deviation

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images + self.deviation * torch.randn_like(images))


@torch.no_grad()
def judged(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of the images that fresh answers have right: by their mean, and one by one."""
    with seeded(1):
        answers = torch.stack([model(images) for _ in range(FRESH)])
    return {
        "by_mean": (answers.mean(0).argmax(1) == labels).double().mean().item(),
        "one_by_one": (answers.argmax(2) == labels).double().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="folder that holds the package autoattack")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20, help="of both attacks; the protocol has 100")
    parser.add_argument("--deviation", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    peers.find([options.reference])
    from autoattack import AutoAttack

    images, labels = samples(options.samples)
    model = Noisy(network("robust"), options.deviation).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found: dict[str, Any] = {
        "eps": EPS, "samples": options.samples, "steps": options.steps, "deviation": options.deviation,
        "clean": judged(model, images, labels),
    }  # fmt: skip
    for who, make in {"regfast": autoattack.AutoAttack, "reference": AutoAttack}.items():
        adversary = make(model, norm="Linf", eps=EPS, version="rand", device="cpu")
        adversary.apgd.n_iter = options.steps
        began = time.process_time()
        with seeded(0), contextlib.redirect_stdout(io.StringIO()) as told:
            points = adversary.run_standard_evaluation(images, labels, bs=options.samples)
        found[who] = {
            "seconds": time.process_time() - began,
            "said": told.getvalue().splitlines()[-1],
            **judged(model, points, labels),
        }
        print(who, found[who], flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
