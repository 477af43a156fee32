"""What the host spends on forward and backward of one loss, by path, beside eager's: µs of processor time a call.

Without a GPU: two rows, of which the native path's kernels and eager's take nothing to speak of; Triton's launches are
left out (the kernel's own argument handling, some 20 µs, comes on top). `python -m benchmarks.gpu.host [--json FILE]`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

os.environ.setdefault("TRITON_INTERPRET", "1")  # so that Triton's functions take tensors of the CPU

import torch
from torch.nn import functional

import regfast

CLASSES = (10, 100, 1003)
ROUNDS, CALLS = 15, 60
Call = Callable[[], None]


def cases(classes: int) -> dict[str, tuple[Call, Call]]:
    """Kind of loss → eager's step, and ours."""
    z = torch.randn(2, classes, requires_grad=True)
    first, second = torch.randint(classes, (2, 2))
    dense = torch.rand(2, classes).softmax(1)
    mixed = regfast.SoftTargets(first=first, second=second, weight=torch.tensor([0.3, 0.3]), num_classes=classes)

    def two_terms() -> None:
        one, other = (functional.cross_entropy(z, labels) for labels in (first, second))
        (0.3 * one + 0.7 * other).backward()

    return {
        "hard": (lambda: functional.cross_entropy(z, first).backward(), lambda: _loss(z, first).backward()),
        "mixed": (two_terms, lambda: _loss(z, mixed).backward()),
        "dense": (lambda: functional.cross_entropy(z, dense).backward(), lambda: _loss(z, dense).backward()),
        "hard, scaled": (
            lambda: (functional.cross_entropy(z, first) / 4).backward(),
            lambda: (_loss(z, first) / 4).backward(),
        ),
    }


def _loss(z: torch.Tensor, target: torch.Tensor | regfast.SoftTargets) -> torch.Tensor:
    return regfast.soft_cross_entropy(z, target)


def measured(calls: dict[str, Call]) -> dict[str, float]:
    """The best round of each, taken by turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.process_time_ns()
            for _ in range(CALLS):
                call()
            found[name] = min(found[name], (time.process_time_ns() - begin) / CALLS / 1e3)
    return found


def without_launches() -> ExitStack:
    """Triton's modules, whose launches do nothing."""
    from regfast.ops.triton import scaling, soft_cross_entropy

    stack = ExitStack()
    for module in (scaling, soft_cross_entropy):
        stack.enter_context(mock.patch.object(module, "launch", lambda *_, **__: None))
    return stack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)

    def by(backend: str, call: Call) -> Call:
        def run() -> None:
            with regfast.use_backend(backend):
                call()

        return run

    result = []
    print("| classes | loss | eager | native | Triton, no launches |\n|--:|---|--:|--:|--:|")
    with without_launches():
        for classes in CLASSES:
            for kind, (eager, ours) in cases(classes).items():
                calls = {"eager": eager, "native": ours, "triton": by("triton", ours)}
                found = measured(calls)
                result.append({"classes": classes, "loss": kind, **found})
                times = " | ".join(f"{found[name]:.1f}" for name in calls)
                print(f"| {classes} | {kind} | {times} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"torch": torch.__version__, "us": result}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
