"""Adversarial training: the loop that people write, `Adversary`, and an evaluation's attack in its place.

A small network for CIFAR-10 learns from 6,000 images against PGD-7 at 8/255, once for each adversary and seed; then
PGD-20 and AutoAttack's fast version attack it on test images. The attack of an evaluation stops at the first wrong
point and leaves wrong samples alone, so who trains with it gets less.

    python -m benchmarks.attacks.training [--epochs 6] [--seeds 2] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.attacks.adversary import BATCH, EPS, SIZE, STEPS, cnn, plain
from benchmarks.attacks.setting import samples
from regfast.attacks import PGD, Adversary, AutoAttack
from regfast.models import seeded

RESULTS = Path(__file__).parents[1] / "results" / "cpu-training.json"
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def adversaries(seed: int) -> dict[str, Attack]:
    """Name to what makes a batch's perturbed images; the plain loop asks the model as it trains, in train mode."""
    attack = PGD("linf", EPS, STEPS, step_size=SIZE)
    return {
        "plain loop": lambda model, images, labels: plain(model, images, labels, False),
        "Adversary": Adversary(attack, seed=seed),
        "attack.run": lambda model, images, labels: attack.run(model.eval(), images, labels).images,
    }


def train(attack: Attack, seed: int, epochs: int, images: Tensor, labels: Tensor) -> tuple[nn.Module, float]:
    """A network trained on perturbed images, and the processor seconds of its attacks."""
    attacked = 0.0
    with seeded(seed):
        model = cnn(stride=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        batches = len(images) // BATCH
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * batches)
        for _ in range(epochs):
            for rows in torch.randperm(len(images))[: batches * BATCH].split(BATCH):
                x, y = images[rows], labels[rows]
                x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
                model.train()
                began = time.process_time()
                x = attack(model, x, y)
                attacked += time.process_time() - began
                model.train()
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                schedule.step()
    return model.eval(), attacked


def judge(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy on clean images, under PGD-20 and under AutoAttack fast, all at the radius of the training."""
    pgd = PGD("linf", EPS, 20).run(model, images, labels)
    fast = AutoAttack("linf", EPS, version="fast").run(model, images, labels)
    return {
        "clean": pgd.clean.double().mean().item(), "pgd-20": pgd.robust_accuracy, "fast": fast.robust_accuracy
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train", type=int, default=6000, help="images to learn from")
    parser.add_argument("--test", type=int, default=500, help="images to attack")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    images, labels = samples(options.train, file_name="cifar10_train10k.npz")
    test = samples(options.test)
    rows = []
    for seed in range(options.seeds):
        for name, attack in adversaries(seed).items():
            model, attacked = train(attack, seed, options.epochs, images, labels)
            rows.append({"adversary": name, "seed": seed, **judge(model, *test), "attack_s": attacked})
            told = (f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items())
            print("  ".join(told), flush=True)
            found = {"train": options.train, "test": options.test, "epochs": options.epochs, "eps": EPS, "steps": STEPS,
                     "threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}  # fmt: skip
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
