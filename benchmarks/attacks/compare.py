"""Attacks against their peers on ResNet-20 and CIFAR-10 images: same model, images, budget, one run.

    python -m benchmarks.attacks.compare            # every case, then the plot
    python -m benchmarks.attacks.compare pgd apgd   # some of them; the others keep their rows in the result file

Evaluations are counted, seconds are of this machine. Peers that are not installed are left out (see peers.py).
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.attacks import peers
from benchmarks.attacks.peers import ours, theirs
from benchmarks.attacks.plot import plot
from benchmarks.attacks.setting import DATA, Outcome, network, samples
from regfast.attacks import APGD, PGD
from regfast.attacks.autoattack import AutoAttack

RESULTS = Path(__file__).parents[1] / "results" / "cpu-attacks.json"
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


def pgd() -> list[Outcome]:
    """PGD-20 at 2/255 on the ordinary network, 256 images."""
    model, (images, labels) = network("ordinary"), samples(256)
    eps, steps, size = 2 / 255, 20, 2 / 255 / 4
    attack = PGD("linf", eps, steps, step_size=size)
    rows = [ours("regfast", attack, model, images, labels)]
    return rows + [theirs(who, peer, model, images, labels) for who, peer in peers.pgd(eps, steps, size).items()]


def apgd() -> list[Outcome]:
    """APGD-CE, 100 steps at 4/255 on the adversarially trained network, 64 images."""
    model, (images, labels) = network("robust"), samples(64)
    rows = [
        ours("regfast", APGD("linf", 4 / 255), model, images, labels),
        ours("regfast bf16", APGD("linf", 4 / 255), model, images, labels, precision="bf16"),
    ]
    return rows + [theirs(who, peer, model, images, labels) for who, peer in peers.apgd(4 / 255, 100).items()]


def autoattack_8() -> list[Outcome]:
    """AutoAttack standard at 8/255 on the ordinary network, 100 images."""
    model, (images, labels) = network("ordinary"), samples(100)
    rows = [ours("regfast", AutoAttack("linf", 8 / 255), model, images, labels)]
    return rows + [theirs(who, peer, model, images, labels) for who, peer in peers.autoattack(8 / 255).items()]


def standard() -> list[Outcome]:
    """AutoAttack standard and fast at 4/255 on the adversarially trained network, 50 images: regfast."""
    model, (images, labels) = network("robust"), samples(50)
    return [
        ours("regfast", AutoAttack("linf", 4 / 255), model, images, labels),
        ours("regfast fast", AutoAttack("linf", 4 / 255, version="fast"), model, images, labels),
    ]


def standard_bf16() -> list[Outcome]:
    """The same searched in bfloat16: regfast."""
    model, (images, labels) = network("robust"), samples(50)
    return [ours("regfast bf16", AutoAttack("linf", 4 / 255), model, images, labels, precision="bf16")]


def reference_stage(stage: str) -> Callable[[], list[Outcome]]:
    """One stage of the reference's standard on the samples that its stages before left (a whole run is long)."""

    def run() -> list[Outcome]:
        known = json.loads((DATA / "reference_robust20_linf_4of255.json").read_text())
        left = set(known["clean"]) if stage != STAGES[0] else set(range(known["n"]))
        for before in STAGES[: STAGES.index(stage)]:
            left -= set(known[before]["broken"])
        model, (images, labels) = network("robust"), samples(known["n"])
        rows = sorted(left)
        found = peers.autoattack(4 / 255, [stage])
        return [theirs(f"{who} {stage}", peer, model, images[rows], labels[rows]) for who, peer in found.items()]

    return run


def budgets() -> list[Outcome]:
    """Robust accuracy over evaluations: PGD of 1 to 100 steps at 4/255 on the adversarially trained network."""
    model, (images, labels) = network("robust"), samples(100)
    rows, eps = [], 4 / 255
    for steps in (1, 3, 10, 30, 100):
        size = 2.5 * eps / steps
        rows.append(ours("regfast", PGD("linf", eps, steps, step_size=size), model, images, labels))
        rows += [theirs(who, peer, model, images, labels) for who, peer in peers.pgd(eps, steps, size).items()]
    return rows


def budgets_ordinary() -> list[Outcome]:
    """The same at 1/255 on the ordinary network."""
    model, (images, labels) = network("ordinary"), samples(100)
    rows, eps = [], 1 / 255
    for steps in (1, 3, 10, 30, 100):
        size = 2.5 * eps / steps
        rows.append(ours("regfast", PGD("linf", eps, steps, step_size=size), model, images, labels))
        rows += [theirs(who, peer, model, images, labels) for who, peer in peers.pgd(eps, steps, size).items()]
    return rows


CASES: dict[str, Callable[[], list[Outcome]]] = {
    "pgd": pgd,
    "apgd": apgd,
    "autoattack-8": autoattack_8,
    "standard": standard,
    "standard-bf16": standard_bf16,
    **{f"standard-reference-{stage}": reference_stage(stage) for stage in STAGES},
    "budgets": budgets,
    "budgets-ordinary": budgets_ordinary,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"from {', '.join(CASES)}; all by default")
    parser.add_argument("--reference-path", type=Path, help="checkout of fra31/auto-attack")
    parser.add_argument("--adv-lib-path", type=Path, help="checkout of jeromerony/adversarial-library")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"unknown case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if not DATA.is_dir():
        parser.error(f"needs the images and networks in {DATA}")
    peers.find([options.reference_path, options.adv_lib_path])
    results = json.loads(options.out.read_text()) if options.out.exists() else {"cases": {}}
    results["environment"] = {
        "python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for case in options.cases or CASES:
        about, rows = " ".join((CASES[case].__doc__ or f"the reference's {case} at 4/255").split()), CASES[case]()
        results["cases"][case] = {"about": about, "rows": [row.row() for row in rows]}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"\n{case}: {about}")
        for row in rows:
            print(
                f"  {row.who:28} robust {row.robust_accuracy:6.1%}  forwards {row.queries:7}"
                f"  gradients {row.gradients:6}  weight gradients {row.weight_gradients:6}  {row.seconds:7.2f} s",
                flush=True,
            )
    plot(results, options.out.with_suffix(""))


if __name__ == "__main__":
    main()
