"""One worker against two, each pinned to a core: `python -m benchmarks.scale.workers --data FOLDER [--samples N]`.

Times `regfast evaluate` from the first chunk to the last (the start of the processes is not counted), in alternation,
and checks that both gave the same counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def evaluate(out: Path, workers: int, options: list[str]) -> float:
    """Seconds of one evaluation by `workers` processes, each on its own core."""
    command = [sys.executable, "-m"]
    if workers > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), "-m"]
    command += ["benchmarks.scale.pinned", *options, "--threads", "1", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return float(json.loads((out / "summary.json").read_text())["last_call"]["wall_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_test2k.npz and ResNet-20 weights")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--attack", default="pgd:steps=40")
    arguments = parser.parse_args()
    options = [
        "evaluate",
        "--model",
        "resnet20",
        "--checkpoint",
        str(arguments.data / "robust_resnet20_cifar10.safetensors"),
    ]
    options += [
        "--dataset",
        "npz",
        "--data-root",
        str(arguments.data / "cifar10_test2k.npz"),
        "--attack",
        arguments.attack,
    ]
    options += ["--eps", "4/255", "--limit", str(arguments.samples), "--lanes", "32", "--device", "cpu"]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.repeats):
            for workers in (1, 2):
                seconds[workers].append(evaluate(Path(folder) / f"{workers}-{turn}", workers, options))
                print(f"{workers} worker(s): {seconds[workers][-1]:.2f} s", flush=True)
        one, two = (json.loads((Path(folder) / f"{w}-0" / "summary.json").read_text()) for w in (1, 2))
        if one["attacks"] != two["attacks"]:
            print("note: the counts differ between one and two workers; batch-norm folding rounds with the batch")
    ratios = [a / b for a, b in zip(seconds[1], seconds[2], strict=True)]
    print(f"two workers are {statistics.median(ratios):.2f} times one (min {min(ratios):.2f}, max {max(ratios):.2f})")
    RESULTS.mkdir(exist_ok=True)
    record = {
        "what": f"regfast evaluate, {arguments.attack}, {arguments.samples} CIFAR-10 images, ResNet-20, a core each",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": {str(workers): values for workers, values in seconds.items()},
        "speedup": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    (RESULTS / "cpu-scale-workers.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
