"""`python -m benchmarks.evidence --out RUN`: what magnitude alone and direction alone do to calibration and robustness.

The paper says that soft labels shrink features, which lowers the calibration error, and turn them toward their class
centers, which lowers the attack success rate. Both happen at once there. Here `rms-penalty` only shrinks and
`cosine-reward` only turns, each as much as Mixup does (`match.py`; its trainings are in RUN-search.json) and at ten
times that strength, beside the paper's four regularizers in one study. RUN holds that study, its page, and
`evidence.md`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence.match import Match, Trainings, match
from benchmarks.evidence.table import evidence
from regfast.cli._options import whole_numbers
from regfast.data import load_splits
from regfast.report import write_report
from regfast.runs.files import write_json, write_text
from regfast.runs.progress import Steps
from regfast.study import run_study, sized

# Intervention, the statistics that it may match (the first that Mixup moves as the paper says), and whether they rise.
_ASKED = (("rms-penalty", ("rms",), False), ("cosine-reward", ("cosine", "cosine_in_span"), True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="noisy-digits")
    parser.add_argument("--data-root")
    parser.add_argument("--model")
    parser.add_argument("--recipe", help="of all trainings, such as cifar-fast:epochs=15,precision=bf16")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the study")
    parser.add_argument("--search-seeds", default="100,101")
    parser.add_argument("--rounds", type=int, default=3, help="times that the search halves its interval")
    parser.add_argument("--doses", default="1,10", help="multiples of the matched strength, one regularizer each")
    parser.add_argument("--limit", type=int, help="test images")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fields = ("data_root", "model", "recipe", "limit")
    given = {name: getattr(options, name) for name in fields if getattr(options, name)}
    config = sized("full", options.dataset, **given)
    options.out.mkdir(parents=True, exist_ok=True)
    search = options.out.with_name(f"{options.out.name}-search.json")
    trainings = Trainings(
        config,
        load_splits(config.dataset, config.data_root),
        tuple(whole_numbers(options.search_seeds, "--search-seeds")),
        search,
    )
    found = [_first(trainings, *asked, rounds=options.rounds) for asked in _ASKED]
    regularizers: dict[str, dict[str, Any]] = {name: {} for name in ("hard", "smoothing", "mixup", "cutmix")}
    for one in found:
        if one.strength is None:
            continue
        for dose in whole_numbers(options.doses, "--doses"):
            name = one.intervention if dose == 1 else f"{one.intervention}-x{dose}"
            regularizers[name] = {"regularizer": one.intervention, "strength": dose * one.strength}
    config = replace(config, regularizers=regularizers, seeds=tuple(whole_numbers(options.seeds, "--seeds")))
    with Steps() as shown:
        run_study(config, options.out, workers=options.workers, progress=shown)
    write_report(options.out)
    write_json(options.out / "match.json", {one.intervention: asdict(one) for one in found})
    write_text(options.out / "evidence.md", evidence(options.out, found))
    print(f"{options.out / 'evidence.md'} and report.html beside it")


def _first(trainings: Trainings, intervention: str, statistics: tuple[str, ...], rises: bool, rounds: int) -> Match:
    """The match of the first statistic that Mixup moves in the direction that the paper names."""
    for statistic in statistics:
        found = match(trainings, intervention, statistic, rises, rounds)
        if found.strength is not None:
            break
    return found


if __name__ == "__main__":
    main()
