"""FAB's move: the CPU's kernel against PyTorch's operations (our reference) and AutoAttack's projections.

Theirs is the projection alone, as their FAB calls it, of points and images together; ours is the whole move. Radii and
planes as an attack meets them: points near their images, planes near the points.

    PYTHONPATH=auto-attack python -m benchmarks.attacks.boundary [--json benchmarks/results/cpu-boundary.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import interleaved, machine
from regfast.ops.boundary import boundary_step
from regfast.ops.dispatch import use_backend
from regfast.ops.reference.boundary import boundary_step as reference

CASES = ((1024, 64), (128, 3072), (8, 150528))  # lanes, entries: digits, CIFAR, ImageNet
MOVE = 1.05, 0.1, 0.9  # FAB's eta, alpha_max, beta


def given(lanes: int, size: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(lanes)
    image = torch.rand(lanes, size, generator=draw)
    point = (image + (8 / 255) * (2 * torch.rand(lanes, size, generator=draw) - 1)).clamp(0, 1)
    slope = torch.randn(lanes, size, generator=draw)
    rise = -0.03 * slope.abs().sum(1) * torch.rand(lanes, generator=draw)
    return point, image, rise, slope, torch.rand(lanes, generator=draw) < 0.5


def peers() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    try:
        from autoattack import fab_projections as theirs
    except ImportError:
        return {}
    return {"linf": theirs.projection_linf, "l2": theirs.projection_l2, "l1": theirs.projection_l1}


def calls(norm: str, lanes: int, size: int) -> dict[str, Callable[[], Tensor]]:
    point, image, rise, slope, _ = move = given(lanes, size)
    both, normals = torch.cat((point, image)), torch.cat((slope, slope))
    offset = ((slope * point).sum(1) - rise).repeat(2)

    def ours() -> Tensor:
        with use_backend("cpu"):
            return boundary_step(*move, *MOVE, norm)  # type: ignore[arg-type]

    found = {"regfast": ours, "reference": lambda: reference(*move, *MOVE, norm)}
    if norm in peers():
        found["AutoAttack"] = lambda: peers()[norm](both, normals, offset)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(2)
    rows = []
    print("| norm | lanes × entries | regfast µs | × PyTorch's operations | × AutoAttack's projection |")
    print("|---|---|--:|--:|--:|")
    for norm in ("linf", "l2", "l1"):
        for lanes, size in CASES:
            times = interleaved(calls(norm, lanes, size), 3.0)
            ours = times["regfast"].median
            ratios = " | ".join(f"{times[name].median / ours:.1f}" for name in times if name != "regfast")
            print(f"| {norm} | {lanes} × {size} | {ours:,.0f} | {ratios} |", flush=True)
            rows.append({"norm": norm, "lanes": lanes, "entries": size, "us": {n: asdict(t) for n, t in times.items()}})
    if options.json is not None:
        report = {"machine": machine(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
