"""Peak memory and time of `regfast.measure` over the number of images: 2,048 features, 1,000 classes, one worker.

python -m benchmarks.scale.measure 5000 50000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEATURES, CLASSES = 2048, 1000


def measured(count: int) -> dict[str, float]:
    """Measure a random network on `count` random images in this process."""
    import torch
    from torch import nn

    import regfast
    from regfast.data import ImageArray
    from regfast.study import AttackSetting, Sweep

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES)).eval()
    # Random labels would leave nothing right: the network's own answers are, but for every fourth image.
    with torch.no_grad():
        answers = torch.cat([net(part.float() / 255).argmax(1) for part in images.split(1000)])
    labels = torch.where(torch.arange(count) % 4 == 0, torch.arange(count) % CLASSES, answers)
    data = ImageArray(images, labels, [str(label) for label in range(CLASSES)])
    attacks = tuple(AttackSetting("pgd", "linf", eps, 2, 1, kind) for eps, kind in ((0.001, "weak"), (0.01, "strong")))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        regfast.measure(
            {"net": net}, data, out=Path(folder) / "run", size="smoke", limit=None, attacked=16, attacks=attacks,
            sweep=Sweep("linf", (0.01,), 2), some_classes=True, progress=False,
        )  # fmt: skip
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    return {"images": count, "seconds": round(seconds, 1), "peak_gib": round(peak, 2)}


def main() -> None:
    """Each number of images in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", nargs="+", type=int)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    for count in given.counts:
        if given.inside:
            print(json.dumps(measured(count)))
        else:
            command = [sys.executable, "-m", "benchmarks.scale.measure", str(count), "--inside"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
