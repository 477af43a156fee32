"""A simulated queue of many workers over measured per-sample costs: `python -m benchmarks.scale.queue RUN`.

RUN is a folder of `regfast evaluate`: its rows say how many gradients and forward passes each sample took. They are
drawn with replacement to the size of the job, cut into chunks as the evaluation cuts them, and given to workers by a
simulated clock: whoever is free first takes the next chunk. Efficiency is the work divided by workers x the time until
the last of them is done.
"""

from __future__ import annotations

import argparse
import heapq
import json
from pathlib import Path

import numpy as np

from regfast.evaluation.compare import read_run
from regfast.evaluation.queue import chunk_samples

RESULTS = Path(__file__).parents[1] / "results"


def simulate(
    cost: np.ndarray, workers: int, chunk_size: int | None, overhead: float, spread: float, seed: int
) -> float:
    """Efficiency of `workers` over samples of the given `cost` (seconds), with `overhead` seconds a chunk.

    `spread`: the workers' speeds are log-normal with this standard deviation, as GPUs of one model differ.
    """
    speed = np.exp(np.random.default_rng(seed).normal(0, spread, workers))
    chunks = chunk_samples(range(len(cost)), workers, chunk_size=chunk_size)
    free = [(0.0, worker) for worker in range(workers)]
    for chunk in chunks:
        at, worker = heapq.heappop(free)
        heapq.heappush(free, (at + overhead + cost[chunk].sum() / speed[worker], worker))
    end = max(at for at, _ in free)
    return float(cost.sum() / (speed.sum() * end))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished `regfast evaluate`")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--gradient-cost", type=float, default=2.5, help="of one input gradient, in forward passes")
    parser.add_argument("--forward-seconds", type=float, default=1e-4, help="one forward pass of one sample")
    parser.add_argument("--overhead", type=float, default=0.02, help="seconds a chunk: reading, writing, the counter")
    arguments = parser.parse_args()
    rows = read_run(arguments.run)[1]
    sample = rows["sample"].to_numpy()
    evaluations = rows["queries"].to_numpy() + (arguments.gradient_cost - 1) * rows["gradients"].to_numpy() + 1
    _, place = np.unique(sample, return_inverse=True)
    measured = np.bincount(place, weights=evaluations) * arguments.forward_seconds
    cost = np.random.default_rng(0).choice(measured, arguments.samples)
    figures = f"median {np.median(measured):.3g} s, mean {measured.mean():.3g}, max {measured.max():.3g}"
    print(f"{len(measured)} measured samples: {figures}")
    record = []
    for workers in (8, 64, 256, 1000):
        for chunk_size in (None, 16, 64, 512):
            found = [simulate(cost, workers, chunk_size, arguments.overhead, 0.05, seed) for seed in range(5)]
            record.append(
                {"workers": workers, "chunk_size": chunk_size or "guided", "efficiency": float(np.median(found))}
            )
            print(f"{workers:5} workers, chunks {chunk_size or 'guided'!s:>6}: efficiency {np.median(found):.1%}")
    RESULTS.mkdir(exist_ok=True)
    facts = {key: value for key, value in vars(arguments).items() if key != "run"}
    (RESULTS / "scale-queue.json").write_text(json.dumps({**facts, "results": record}, indent=2) + "\n")


if __name__ == "__main__":
    main()
