"""`python -m benchmarks.calibration.temperature`: `fit_temperature` against the usual fit by torch's LBFGS.

Processor seconds on one thread, in turns, on logits of a made-up overconfident network (2.5 times too sharp). The LBFGS
fits are that of Guo et al.'s code (https://github.com/gpleiss/temperature_scaling: float32, learning rate 0.01, 50
iterations), and one with a learning rate of 1 and strong Wolfe line search, which converges.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from regfast.calibration import fit_temperature


def lbfgs(logits: Tensor, labels: Tensor, **options: Any) -> float:
    temperature = torch.nn.Parameter(torch.full((1,), 1.5))
    optimizer = torch.optim.LBFGS([temperature], max_iter=50, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(logits / temperature, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return temperature.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(options.samples, options.classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    logits *= 2.5
    fits: dict[str, Callable[[], float]] = {
        "regfast": lambda: fit_temperature(logits, labels),
        "LBFGS as published": lambda: lbfgs(logits, labels, lr=0.01),
        "LBFGS, strong Wolfe": lambda: lbfgs(logits, labels, lr=1.0, line_search_fn="strong_wolfe"),
    }
    best = dict.fromkeys(fits, float("inf"))
    found = dict.fromkeys(fits, float("nan"))
    for _ in range(options.repeats):
        for name, fit in fits.items():
            begin = time.process_time()
            found[name] = fit()
            best[name] = min(best[name], time.process_time() - begin)
    print(f"{options.samples} × {options.classes}, processor seconds of one thread, best of {options.repeats}")
    for name in fits:
        print(f"  {name:20} {best[name]:7.2f} s   T = {found[name]:.6f}")


if __name__ == "__main__":
    main()
