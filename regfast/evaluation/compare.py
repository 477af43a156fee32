"""Paired comparison of evaluated models: the same images, so that what is common to an image cancels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from regfast.evaluation.identity import fingerprint, read_identity
from regfast.evaluation.samples import OK
from regfast.evaluation.store import ResultStore
from regfast.evaluation.summary import eps_text
from regfast.runs.errors import MissingInput
from regfast.runs.files import replacing
from regfast.statistics import mcnemar, paired_difference

__all__ = ["Comparison", "compare", "comparison_markdown", "plot_comparison", "read_run"]


@dataclass(frozen=True)
class Comparison:
    """One figure of one run against the same figure of the first run.

    Attributes:
        run: name of the run compared; `base`: name of the first run.
        figure: "clean accuracy", or attack, norm and eps of a robust accuracy.
        n: samples that both runs have and could use.
        first: the figure of the base on those samples, in [0, 1]; `second`: of `run`.
        difference: `second - first`, with its 95 % interval `low`, `high` (paired bootstrap over samples).
        only_first: samples right (robust) in the base alone; `only_second`: in `run` alone.
        p_value: exact two-sided McNemar test.
    """

    base: str
    run: str
    figure: str
    n: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def read_run(folder: Path) -> tuple[dict[str, object], pa.Table]:
    """Identity and rows of an evaluated run.

    Raises:
        FileNotFoundError: if `folder` holds no run.
        DamagedPart: if a part does not belong to it or is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        raise MissingInput(f"{folder} holds no evaluation: {path} is missing")
    identity = read_identity(path)
    return identity, ResultStore(folder, fingerprint(identity)).read()


def compare(runs: Sequence[str | Path], *, resamples: int = 2000, seed: int = 0) -> list[Comparison]:
    """Compare every run with the first, figure by figure, on the samples that both hold.

    Args:
        runs: two or more folders of `regfast evaluate` on the same data.
        resamples: of the paired bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two runs, runs on other data, or nothing in common.
    """
    if len(runs) < 2:
        raise ValueError(f"compare needs at least two runs, got {len(runs)}")
    folders = [Path(run) for run in runs]
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    loaded = [read_run(folder) for folder in folders]
    base_identity, base_rows = loaded[0]
    base = _outcomes(base_rows)
    compared = []
    for name, (identity, rows) in zip(names[1:], loaded[1:], strict=True):
        if identity["dataset"] != base_identity["dataset"]:
            raise ValueError(
                f"{names[0]} and {name} were made on other data: {base_identity['dataset']} and {identity['dataset']}"
            )
        other = _outcomes(rows)
        common = [figure for figure in base if figure in other]
        for figure in common:
            shared = sorted(base[figure].keys() & other[figure].keys())
            if not shared:
                continue
            first = np.array([base[figure][sample] for sample in shared])
            second = np.array([other[figure][sample] for sample in shared])
            difference = paired_difference(second, first, resamples=resamples, seed=seed)
            test = mcnemar(first, second)
            compared.append(
                Comparison(
                    names[0],
                    name,
                    figure,
                    len(shared),
                    float(first.mean()),
                    float(second.mean()),
                    float(difference.estimate),
                    float(difference.low),
                    float(difference.high),
                    test.only_first,
                    test.only_second,
                    float(test.p_value),
                )
            )
    if not compared:
        raise ValueError(f"{', '.join(names)} have no attack, norm and eps in common on the same samples")
    return compared


def _outcomes(rows: pa.Table) -> dict[str, dict[int, bool]]:
    """Per figure: sample → right (robust). Clean accuracy first, then attacks in order."""
    outcomes: dict[str, dict[int, bool]] = {"clean accuracy": {}}
    columns = [rows[name].to_pylist() for name in ("sample", "attack", "norm", "eps", "status", "correct", "robust")]
    for sample, attack, norm, eps, status, correct, robust in zip(*columns, strict=True):
        if status == OK:
            outcomes["clean accuracy"][sample] = correct
            outcomes.setdefault(f"robust accuracy, {attack} {norm} {eps_text(eps)}", {})[sample] = robust
    return outcomes


def comparison_markdown(compared: Sequence[Comparison]) -> str:
    """The comparison as a Markdown table, differences in percentage points."""
    lines = [
        f"Differences from {compared[0].base} in percentage points, paired 95 % bootstrap intervals; p: McNemar.",
        "",
        "| run | figure | n | base | run | difference | only base | only run | p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for c in compared:
        lines.append(
            f"| {c.run} | {c.figure} | {c.n} | {100 * c.first:.2f} | {100 * c.second:.2f} "
            f"| {100 * c.difference:+.2f} [{100 * c.low:+.2f}, {100 * c.high:+.2f}] "
            f"| {c.only_first} | {c.only_second} | {c.p_value:.2g} |"
        )
    return "\n".join(lines) + "\n"


def plot_comparison(compared: Sequence[Comparison], path: Path) -> None:
    """A forest plot of the differences, PNG or SVG by the ending of `path`; needs matplotlib (extra `report`)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.9 + 0.36 * len(compared)), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(compared))[::-1]
    estimate = np.array([100 * c.difference for c in compared])
    reach = np.array([[c.difference - c.low, c.high - c.difference] for c in compared]).T * 100
    axis.errorbar(estimate, place, xerr=np.maximum(reach, 0), fmt="o", color="#0072B2", capsize=3)
    axis.axvline(0, color="0.4", linewidth=0.8)
    several = len({c.run for c in compared}) > 1
    axis.set_yticks(place, [f"{c.run}: {c.figure}" if several else c.figure for c in compared])
    axis.set_xlabel(f"difference from {compared[0].base}, percentage points (95 % interval)")
    axis.grid(axis="x", alpha=0.3)
    axis.margins(y=0.5 / max(len(compared), 1))
    with replacing(path) as file:
        figure.savefig(file, dpi=150, format=path.suffix[1:])
