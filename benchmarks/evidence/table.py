"""The verdicts of an evidence run in one Markdown table: a row a regularizer, a column a claim."""

from __future__ import annotations

from pathlib import Path

from benchmarks.evidence.match import Match
from benchmarks.evidence.plot import draw
from regfast.report import style
from regfast.report.claims import Verdict, against_reference, claims
from regfast.report.results import Study

_MARKS = {"holds": "✓", "does not hold": "✗", "undecided": "–"}


def evidence(run_dir: Path, matches: list[Match]) -> str:
    """What was matched, then every effect against hard labels with its 95 % interval; draws evidence.png."""
    study = Study.read(run_dir)
    found = against_reference(study)
    measures = list(dict.fromkeys(verdict.measure for verdict in found))
    lines = [f"{len(study.seeds)} seeds, {len(study.column('sample', 'hard')[0])} test images.", ""]
    lines += [_said(one) for one in matches] + [""]
    means = {name: study.metrics["regularizers"][name]["accuracy"]["mean"] for name in study.regularizers}
    lines += ["Accuracy: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()) + ".", ""]
    lines += ["| against hard | " + " | ".join(study.regularizers[1:]) + " |"]
    lines += ["|---" * len(study.regularizers) + "|"]
    for measure in measures:
        cells = [_cell(verdict) for verdict in found if verdict.measure == measure]
        lines.append(f"| {measure} | {' | '.join(cells)} |")
    style.save(draw(found, {claim.column: claim.measure for claim in claims(study)}), run_dir, "evidence")
    lines += ["", "✓ the claim holds, ✗ its opposite does, – the 95 % interval contains 0."]
    return "\n".join(lines) + "\n"


def _said(one: Match) -> str:
    if one.strength is None:
        return (
            f"- {one.intervention}: left out. Mixup moves {one.statistic} from {one.hard:.3f} to {one.aim:.3f}, which "
            "is not the paper's direction, so there is nothing to match."
        )
    return (
        f"- {one.intervention}: strength {one.strength:.4g}. Held-out {one.statistic}: hard {one.hard:.3f}, Mixup "
        f"{one.aim:.3f}, this one {one.got:.3f}."
    )


def _cell(verdict: Verdict) -> str:
    return f"{verdict.effect:+.3f} [{verdict.low:+.3f}, {verdict.high:+.3f}] {_MARKS[verdict.answer]}"
