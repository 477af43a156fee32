"""The clean pass of `regfast.measure` over image files, decoded in worker processes, against the bare model.

python -m benchmarks.scale.clean_pass --data-root VAL [--model torchvision:resnet50] [--images 220] [--rounds 5]

A round runs the bare model over batches that are in memory already, then the pass over the same files: reading,
decoding, features, logits, and writing both. Printed are quartiles over the rounds of the ratio bare / pass: of seconds
on the wall, and of the first process's own CPU seconds, which say what the pass costs where workers have free cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from regfast.data import Subset, load_images
from regfast.data.loading import Batches
from regfast.models import load_model
from regfast.runs.files import write_arrays
from regfast.training import predict

BATCH = 55  # what `predict` takes of 224×224 images


def measured(model_name: str, data_root: Path, count: int, rounds: int) -> dict[str, object]:
    """Ratios of throughput, pass over bare model, on the CPU with one thread."""
    torch.set_num_threads(1)
    model = load_model(model_name).eval()
    files = load_images("imagefolder", data_root, transform=model.preprocess)
    chosen = torch.arange(len(files))[:: max(1, len(files) // count)][:count]
    images = Subset(files, chosen)
    batches = list(Batches(images, torch.device("cpu")).images(torch.arange(len(images)).split(BATCH)))
    ratios = []
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        model(batches[0])  # the first call allocates
        for place in range(rounds):
            ends = [(time.perf_counter(), time.process_time())]
            for batch in batches:
                model(batch)
            ends.append((time.perf_counter(), time.process_time()))
            features, logits, _ = predict(model, images, BATCH)
            arrays = {"features": features.numpy(), "logits": logits.numpy()}
            write_arrays(Path(folder) / f"{place}.npz", arrays)
            ends.append((time.perf_counter(), time.process_time()))
            bare, whole = np.diff(np.array(ends), axis=0)
            ratios.append(bare / whole)
            print(f"round {place}: bare {bare.round(2)} s, pass {whole.round(2)} s (wall, CPU)", flush=True)
    wall, cpu = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0).round(3).T.tolist()
    return {"images": len(images), "rounds": rounds, "wall": wall, "cpu": cpu}


def main() -> None:
    """Print the quartiles as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--images", type=int, default=220)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(json.dumps(measured(given.model, given.data_root, given.images, given.rounds)))


if __name__ == "__main__":
    main()
