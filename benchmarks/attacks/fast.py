"""AutoAttack's fast version against its standard one on models of different kinds: what is left, and what it costs.

Digits of 28×28 pixels (scikit-learn's, enlarged) and a small CNN, trained ordinarily, adversarially at linf 0.3, with
label smoothing and with Mixup; pairs of digits, for 100 classes; and the adversarially trained ResNet-20 on CIFAR-10.
A network and photographs of your own are one more case.

    python -m benchmarks.attacks.fast [CASE ...] [--version fast] [--samples 100] [--out results.json]
    python -m benchmarks.attacks.fast --model module:factory --photographs FOLDER --side 128 --eps 0.25/255
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.attacks.setting import network, samples
from regfast.attacks import PGD, Adversary, AutoAttack, PreparedModel
from regfast.data import load_images, load_splits, pick_samples
from regfast.models import Preprocess, seeded
from regfast.registry import load, parse

RESULTS = Path(__file__).parents[1] / "results" / "cpu-fast.json"
Data = tuple[Tensor, Tensor]


def digits(pairs: bool = False) -> tuple[Data, Data]:
    """Training and test images (N, 1, 28, 28) with labels; two digits side by side (N, 1, 28, 56) for `pairs`."""
    found = []
    for part in (load_splits("digits").train, load_splits("digits").test):
        images, labels = part.batch(torch.arange(len(part))), part.labels
        images = F.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False).clamp(0, 1)
        if pairs:
            other = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
            images, labels = torch.cat((images, images[other]), 3), 10 * labels + labels[other]
        found.append((images, labels))
    return found[0], found[1]


@functools.cache
def trained(
    pairs: bool,
    *,
    classes: int = 10,
    epochs: int = 12,
    against: float = 0.0,
    smoothing: float = 0.0,
    mixup: bool = False,
) -> nn.Module:
    """A CNN with two convolutions, in eval mode; `against` PGD-7 in linf balls that grow to this radius."""
    images, labels = digits(pairs)[0]
    with seeded(0):
        layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
        with torch.no_grad():
            width = nn.Sequential(*layers)(images[:1]).shape[1]
        model = nn.Sequential(*layers, nn.Linear(width, classes))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for epoch in range(epochs):
            radius = against * min(1.0, (epoch + 1) / (0.5 * epochs))
            adversary = Adversary(PGD("linf", radius, 7), seed=epoch)
            for rows in torch.randperm(len(images)).split(64):
                x, y = images[rows], labels[rows]
                other, share = torch.randperm(len(y)), 1.0
                if against:
                    x = adversary(model, x, y)
                if mixup:
                    share = float(torch.distributions.Beta(1.0, 1.0).sample())
                    x = share * x + (1 - share) * x[other]
                optimizer.zero_grad()
                logits = model(x)
                loss = share * F.cross_entropy(logits, y, label_smoothing=smoothing)
                if mixup:
                    loss = loss + (1 - share) * F.cross_entropy(logits, y[other])
                loss.backward()
                optimizer.step()
    return model.eval()


Case = tuple[nn.Module, Data, str, float]


def on_digits(norm: str, eps: float, pairs: bool = False, **training: Any) -> Callable[[int], Case]:
    """A case: of the number of samples, a trained model, test images, norm and eps."""

    def make(count: int) -> Case:
        images, labels = digits(pairs)[1]
        return trained(pairs, classes=100 if pairs else 10, **training), (images[:count], labels[:count]), norm, eps

    return make


CASES: dict[str, Callable[[int], Case]] = {
    "digits, adversarial, linf": on_digits("linf", 0.3, against=0.3, epochs=30),
    "digits, adversarial, l2": on_digits("l2", 1.0, against=0.3, epochs=30),
    "digits, adversarial at 0.25, l2": on_digits("l2", 0.9, against=0.25, epochs=24),
    "digits, label smoothing, l2": on_digits("l2", 0.5, smoothing=0.1),
    "digits, label smoothing": on_digits("linf", 0.07, smoothing=0.1),
    "digits, Mixup": on_digits("linf", 0.07, mixup=True),
    "pairs of digits, 100 classes": on_digits("linf", 0.035, pairs=True, epochs=20),
    "ResNet-20, adversarial, CIFAR-10": lambda count: (network("robust"), samples(min(count, 20)), "linf", 4 / 255),
}


def on_photographs(model: str, folder: Path, side: int, eps: float) -> Callable[[int], Case]:
    """A case: a network of the user's and an image folder, the central `side` × `side` pixels, linf."""

    def make(count: int) -> Case:
        data = load_images("imagefolder", folder, transform=Preprocess(side * 8 // 7, side))
        chosen = torch.tensor(pick_samples(len(data), count, 0))
        return load(model, "--model")().eval(), (data.batch(chosen), data.labels[chosen]), "linf", eps

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"from {'; '.join(CASES)}; all by default")
    parser.add_argument("--version", choices=("fast", "standard"), help="one alone; the other keeps its figures")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--model", help="module:factory, a network for --photographs")
    parser.add_argument("--photographs", type=Path, help="class folders, in the order of the network's classes")
    parser.add_argument("--side", type=int, default=224, help="pixels of a photograph's side")
    parser.add_argument("--eps", default="0.25/255", help="radius on the photographs, linf")
    options = parser.parse_args()
    asked = options.cases or list(CASES)
    if options.model:
        name = f"{options.model}, photographs of {options.side}×{options.side}"
        eps = parse(f"fgsm:eps={options.eps}")[1]["eps"]
        CASES[name] = on_photographs(options.model, options.photographs, options.side, eps)
        asked = [name]
    known = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
    rows = {row["case"]: row for row in known}
    for name in asked:
        model, (images, labels), norm, eps = CASES[name](options.samples)
        prepared = PreparedModel(model, images)
        row: dict[str, Any] = rows.get(name, {}) | {"case": name, "norm": norm, "eps": eps, "samples": len(images)}
        for version in (options.version,) if options.version else ("fast", "standard"):
            began = time.process_time()
            result = AutoAttack(norm, eps, version).run(prepared, images, labels)
            row |= {
                "clean": result.clean.double().mean().item(),
                version: result.robust_accuracy,
                f"{version}_evaluations": int((result.gradients + result.queries).sum()),
                f"{version}_s": time.process_time() - began,
                f"{version}_stages": {stage: result.stage.count(stage) for stage in dict.fromkeys(result.stage)},
            }
        rows[name] = row
        print(row, flush=True)
        options.out.write_text(json.dumps({"rows": list(rows.values())}, indent=1) + "\n")


if __name__ == "__main__":
    main()
