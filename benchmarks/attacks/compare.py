"""Attacks against their peers on ResNet-20 and CIFAR-10 images: same model, images, budget, one run.

    python -m benchmarks.attacks.compare            # every case, then the plot
    python -m benchmarks.attacks.compare pgd apgd   # some of them; the others keep their rows in the result file

Evaluations are counted, seconds are of this machine. Peers that are not installed are left out (see peers.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.attacks import peers
from benchmarks.attacks.peers import ours, theirs
from benchmarks.attacks.plot import BUDGET_IMAGES, plot
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
    """APGD-CE, 100 steps at 4/255 on the adversarially trained network, 32 images."""
    model, (images, labels) = network("robust"), samples(32)
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
    """AutoAttack standard at 4/255 on the adversarially trained network, 50 images: regfast."""
    model, (images, labels) = network("robust"), samples(50)
    return [ours("regfast", AutoAttack("linf", 4 / 255), model, images, labels)]


def fast() -> list[Outcome]:
    """AutoAttack fast on the same: regfast."""
    model, (images, labels) = network("robust"), samples(50)
    return [ours("regfast fast", AutoAttack("linf", 4 / 255, version="fast"), model, images, labels)]


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
    model, (images, labels) = network("robust"), samples(BUDGET_IMAGES)
    rows, eps = [], 4 / 255
    for steps in (1, 3, 10, 30, 100):
        size = 2.5 * eps / steps
        rows.append(ours("regfast", PGD("linf", eps, steps, step_size=size), model, images, labels))
        rows += [theirs(who, peer, model, images, labels) for who, peer in peers.pgd(eps, steps, size).items()]
    return rows


def budgets_ordinary() -> list[Outcome]:
    """The same at 1/255 on the ordinary network."""
    model, (images, labels) = network("ordinary"), samples(BUDGET_IMAGES)
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
    "fast": fast,
    **{f"standard-reference-{stage}": reference_stage(stage) for stage in STAGES},
    "budgets": budgets,
    "budgets-ordinary": budgets_ordinary,
}


def ratios(cases: dict[str, Any]) -> dict[str, float]:
    """How many times ours a peer costs (PGD, APGD), and our share of the reference's cost."""
    rows = {(case, row["who"]): row for case, found in cases.items() for row in found["rows"]}
    found: dict[str, float] = {}

    def share(name: str, cost: str, part: list[tuple[str, str]], whole: list[tuple[str, str]]) -> None:
        if all(key in rows for key in part + whole):
            found[name] = round(sum(rows[key][cost] for key in part) / sum(rows[key][cost] for key in whole), 3)

    stages = [(f"standard-reference-{stage}", f"reference {stage}") for stage in STAGES]
    for cost in ("seconds", "cpu_seconds"):
        share(f"pgd torchattacks/regfast {cost}", cost, [("pgd", "torchattacks")], [("pgd", "regfast")])
        share(f"apgd adv-lib/regfast {cost}", cost, [("apgd", "adv-lib")], [("apgd", "regfast")])
        share(f"standard regfast/reference {cost}", cost, [("standard", "regfast")], stages)
        share(f"standard bf16 regfast/reference {cost}", cost, [("standard-bf16", "regfast bf16")], stages)
    share("standard regfast/reference units", "units", [("standard", "regfast")], stages)
    share("fast/standard units", "units", [("fast", "regfast fast")], [("standard", "regfast")])
    share(
        "8/255 regfast/reference gradients", "gradients", [("autoattack-8", "regfast")], [("autoattack-8", "reference")]
    )
    return found


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
        load = round(os.getloadavg()[0], 1)  # above the number of threads: compare cpu_seconds, not seconds
        results["cases"][case] = {"about": about, "load": load, "rows": [row.row() for row in rows]}
        options.out.write_text(json.dumps(results, indent=1) + "\n")
        print(f"\n{case}: {about}")
        for row in rows:
            print(
                f"  {row.who:20} robust {row.robust_accuracy:6.1%}  forwards {row.queries:6}"
                f"  gradients {row.gradients:6} (weights {row.weight_gradients:6})"
                f"  {row.seconds:7.2f} s (processor {row.cpu_seconds:7.2f} s)",
                flush=True,
            )
    results["ratios"] = ratios(results["cases"])
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    for name, value in results["ratios"].items():
        print(f"{name}: {value}")
    plot(results, options.out.with_suffix(""))


if __name__ == "__main__":
    main()
