"""A run's AutoAttack figures in the form that RobustBench asks of a submission (its `model_info` files)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regfast.evaluation.summary import eps_text
from regfast.runs.files import write_json

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def write_leaderboard(folder: Path, summary: Mapping[str, Any]) -> list[Path]:
    """`leaderboard-NORM-EPS.json` for every `standard` AutoAttack of the run; what only its author knows is null.

    Nothing is written of other attacks, nor of targeted ones: leaderboards quote that version alone.
    """
    written = []
    for row in summary["attacks"]:
        robust, clean = row["robust_accuracy"]["value"], summary["clean"]["value"]
        if row["attack"] != "autoattack" or robust is None or "target" in summary:
            continue
        norm, eps = NORMS[row["norm"]], eps_text(row["eps"])
        entry = {
            "link": None,
            "name": None,
            "authors": None,
            "additional_data": None,
            "number_forward_passes": 1,
            "dataset": summary["dataset"],
            "venue": None,
            "architecture": summary["model"],
            "eps": eps,
            "clean_acc": f"{100 * clean:.2f}",
            "reported": None,
            "autoattack_acc": f"{100 * robust:.2f}",
        }
        path = folder / f"leaderboard-{norm}-{eps.replace('/', 'of')}.json"
        write_json(path, entry)
        written.append(path)
    return written
