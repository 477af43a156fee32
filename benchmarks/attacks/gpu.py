"""Attacks on a GPU against their peers, and what a step costs there: same model, images and budget, one run.

    python -m benchmarks.attacks.gpu --out benchmarks/results/gpu

ResNet-20 and CIFAR-10 images where the shared data is; else torchvision's ResNet-18 with random weights on random
images, on which evaluations and times still compare, but robust accuracy means nothing. Peers are optional.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.attacks import peers
from benchmarks.attacks.overhead import TINY, measure
from benchmarks.attacks.peers import ours, theirs
from benchmarks.attacks.setting import CHECKPOINTS, DATA, Outcome, network, samples
from regfast.attacks import APGD, PGD, PreparedModel
from regfast.attacks.autoattack import AutoAttack
from regfast.models import load_model, seeded

Setting = tuple[nn.Module, Tensor, Tensor]


def setting(kind: str, count: int, device: str) -> Setting:
    """A network ("ordinary" or "robust"), images and labels on the device."""
    if (DATA / CHECKPOINTS[kind]).exists():
        images, labels = samples(count)
        return network(kind).to(device).eval(), images.to(device), labels.to(device)
    with seeded(0):
        model = load_model("resnet18", num_classes=10).to(device).eval()
        images = torch.rand(count, 3, 32, 32, device=device)
    with torch.no_grad():
        labels = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return model, images, labels


def pgd(device: str, count: int) -> Iterable[Callable[[], Outcome]]:
    """PGD-20 at 2/255 on the ordinary network."""
    eps, steps, size = 2 / 255, 20, 2 / 255 / 4
    found, attack = setting("ordinary", count, device), PGD("linf", 2 / 255, 20, step_size=2 / 255 / 4)
    yield lambda: ours("regfast", attack, *found)
    yield lambda: ours("regfast bf16", attack, *found, precision="bf16")
    model, images, labels = found
    yield lambda: ours("regfast graphs", attack, PreparedModel(model, images, cuda_graphs=True), images, labels)
    for who, peer in peers.pgd(eps, steps, size).items():
        yield lambda who=who, peer=peer: theirs(who, peer, *found)  # type: ignore[misc]


def apgd(device: str, count: int) -> Iterable[Callable[[], Outcome]]:
    """APGD-CE, 100 steps at 4/255 on the adversarially trained network."""
    found, attack = setting("robust", count, device), APGD("linf", 4 / 255)
    yield lambda: ours("regfast", attack, *found)
    yield lambda: ours("regfast bf16", attack, *found, precision="bf16")
    for who, peer in peers.apgd(4 / 255, 100).items():
        yield lambda who=who, peer=peer: theirs(who, peer, *found)  # type: ignore[misc]


def autoattack(device: str, count: int) -> Iterable[Callable[[], Outcome]]:
    """AutoAttack standard at 8/255 on the ordinary network."""
    found, attack = setting("ordinary", count, device), AutoAttack("linf", 8 / 255)
    yield lambda: ours("regfast", attack, *found)
    for who, peer in peers.autoattack(8 / 255).items():
        yield lambda who=who, peer=peer: theirs(who, peer, *found)  # type: ignore[misc]


CASES: dict[str, tuple[Callable[[str, int], Iterable[Callable[[], Outcome]]], int]] = {
    "pgd": (pgd, 2000),
    "apgd": (apgd, 500),
    "autoattack-8": (autoattack, 500),
}


def overhead(device: str, lanes: int) -> dict[str, Any]:
    """Medians of a step and of the model in it, launches counted, not their end: what the host has to do for a step."""
    model, images, _ = setting("ordinary", lanes, device)
    with torch.no_grad():
        logits = model(images)
    prepared = PreparedModel(model, images)
    table = {}
    for name, attack in {"PGD linf": PGD("linf", TINY, 20), "APGD l2": APGD("l2", TINY, 20)}.items():
        step, inside = measure(attack, prepared, images, logits.argmax(1), logits)
        table[name] = {"lanes": lanes, "step_us": 1e6 * step, "model_us": 1e6 * inside}
        print(f"{name}, {lanes} lanes: a step {1e6 * step:.0f} us, of it {1e6 * inside:.0f} us in the model")
    return table


def plot(results: dict[str, Any], path: Path) -> None:
    """Seconds of everyone, a panel a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = {name: case["rows"] for name, case in results["cases"].items() if case["rows"]}
    if not cases:
        return
    figure, panels = pyplot.subplots(1, len(cases), figsize=(4 * len(cases), 3.2), squeeze=False, layout="constrained")
    for panel, (name, rows) in zip(panels[0], cases.items(), strict=True):
        panel.barh([row["who"] for row in rows], [row["seconds"] for row in rows])
        panel.invert_yaxis()
        panel.set(title=name, xlabel="seconds")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gpu")
    parser.add_argument("--seconds", type=float, default=45, help="start nothing new after so many")
    parser.add_argument("--device", default="cuda", help="cpu tries the program out")
    parser.add_argument("--share", type=float, default=1.0, help="of the images")
    parser.add_argument("--reference-path", type=Path, help="checkout of fra31/auto-attack")
    parser.add_argument("--adv-lib-path", type=Path, help="checkout of jeromerony/adversarial-library")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "no CUDA device: nothing to measure\n")
    peers.find([options.reference_path, options.adv_lib_path])
    deadline = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "environment": {
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "network": "ResNet-20" if DATA.is_dir() else "ResNet-18, random weights and images",
        },
        "cases": {},
        "skipped": [],
    }

    def write() -> None:
        (options.out / "attacks.json").write_text(json.dumps(results, indent=1) + "\n")

    for case, (make, count) in CASES.items():
        rows: list[dict[str, Any]] = []
        results["cases"][case] = {"about": make.__doc__, "images": max(1, int(count * options.share)), "rows": rows}
        print(f"{case}: {make.__doc__}")
        try:
            calls = list(make(options.device, results["cases"][case]["images"]))
            calls[0]()  # compiles what there is to compile
        except Exception as error:
            results["skipped"].append([case, f"{type(error).__name__}: {error}"[:300]])
            print(f"  {type(error).__name__}: {error}")
            continue
        for call in calls:
            if time.monotonic() > deadline:
                results["skipped"].append([case, "out of time"])
                break
            try:
                row = call().row()
            except Exception as error:  # a peer that fails must not end the run
                results["skipped"].append([case, f"{type(error).__name__}: {error}"[:300]])
                print(f"  {type(error).__name__}: {error}")
                continue
            rows.append(row)
            print(
                f"  {row['who']:20} robust {row['robust_accuracy']:6.1%}  forwards {row['queries']:7}"
                f"  gradients {row['gradients']:7}  {row['seconds']:7.2f} s",
                flush=True,
            )
            write()
    if time.monotonic() < deadline:
        results["overhead"] = [overhead(options.device, max(1, int(lanes * options.share))) for lanes in (64, 512)]
    write()
    try:
        plot(results, options.out / "attacks.png")
    except ImportError as error:
        print(f"no figure: {error}")


if __name__ == "__main__":
    main()
