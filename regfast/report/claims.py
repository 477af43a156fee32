"""One verdict for each of the paper's claims: the effect, its 95 % interval, and whether the claim holds on this data.

The claims are those of arXiv 2410.03999 (second version): soft labels lower the features' magnitude, turn them toward
the class centers, lower the calibration error and the attack success rate; and within one model, a sample with a higher
cosine falls less often. Cosines are given raw, as the paper has them, and in the span of the head, where the softmax
sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from regfast.calibration.bins import ece_statistic
from regfast.report.results import Study, attack_name
from regfast.statistics import Interval, bootstrap_interval, paired_difference

Array = npt.NDArray[Any]
Answer = Literal["holds", "does not hold", "undecided"]

RULE = (
    "A claim holds when the whole 95 % interval of its effect lies on the side that the claim names, does not hold "
    "when the whole interval lies on the other side, and is undecided when the interval contains 0. Effects are "
    "differences to the first model named, on the same test samples with the same seeds; within one model, the "
    "difference between the half of the correct samples with the higher cosine and the other half. Intervals come "
    "from a bootstrap that draws seeds, and then test samples, with replacement, the same ones for both models. On few "
    "samples ECE is too large, most of all for a well-calibrated model: its differences are understated."
)


@dataclass(frozen=True)
class Verdict:
    """One claim for one regularizer. ``effect`` is ``after - before``; ``direction`` the sign that the claim names.

    ``leading`` is true for the measure that stands for its claim on the first screen.
    """

    claim: str
    measure: str
    regularizer: str
    direction: int
    before: float
    after: float
    effect: float
    low: float
    high: float
    leading: bool = False

    @property
    def answer(self) -> Answer:
        """What `RULE` says; an interval that can't be computed leaves the claim undecided."""
        low, high = sorted((self.direction * self.low, self.direction * self.high))
        return "holds" if low > 0 else "does not hold" if high < 0 else "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim and the measure that decides it: ``column`` is its name in `measures`."""

    text: str
    measure: str
    column: str
    direction: int
    leading: bool = False


def claims(study: Study) -> list[Claim]:
    """The claims about differences to the reference that ``study`` can answer, in the page's order."""
    found = [Claim("Magnitude falls", "feature RMS", "rms", -1, leading=True)]
    if "rms_in_span" in study.samples:
        found.append(Claim("Magnitude falls", "RMS, in-span part", "rms_in_span", -1))
    found.append(Claim("Cosine rises", "cosine to the class center", "cosine", 1, leading=True))
    if "cosine_in_span" in study.samples:
        found.append(Claim("Cosine rises", "cosine, in-span part", "cosine_in_span", 1))
    found.append(Claim("Calibration error falls", "ECE", "ece", -1, leading=True))
    strongest = main_attack(study)
    return found + [
        Claim("Attacks succeed less", f"ASR, {attack_name(attack)}", f"asr_{attack['id']}", -1, attack is strongest)
        for attack in study.attacks
    ]


def main_attack(study: Study) -> dict[str, Any] | None:
    """The attack that speaks for all on the first screen: strong and linf where there is one, AutoAttack before PGD."""
    order = ("autoattack", "apgd", "pgd")

    def rank(attack: dict[str, Any]) -> tuple[bool, bool, int]:
        kind = str(attack["attack"]).partition(":")[0].partition("-")[0]
        weaker = order.index(kind) if kind in order else len(order)
        return attack.get("setting") == "weak", attack.get("norm") != "linf", weaker

    return min(study.attacks, key=rank, default=None)


def table(study: Study, regularizer: str, names: list[str]) -> list[Array]:
    """Per seed, (samples, len(names) + 3): a column per name, then `Study.judged`, confidence and correctness."""
    confidence, correct = study.column("confidence", regularizer), study.column("correct", regularizer).astype(float)
    judged = study.judged(regularizer).astype(float)
    columns = []
    for name in names:
        if name == "ece":
            columns.append(np.zeros_like(correct))  # decided by the last two columns alone
        elif name.startswith("asr_"):
            columns.append(study.column(f"success_{name[4:]}", regularizer).astype(float) * judged)
        else:
            columns.append(study.column(name, regularizer).astype(float))
    return list(np.stack([*columns, judged, confidence, correct], axis=-1))


def measures(rows: Array, names: list[str]) -> Array:
    """Every measure of `claims` at once, on resampled rows of `table` (R, n, len(names) + 3): (R, len(names))."""
    result = rows[..., : len(names)].mean(axis=1)
    for k, name in enumerate(names):
        if name == "ece":
            result[:, k] = ece_statistic()(rows[..., -2:])
        elif name.startswith("asr_"):
            result[:, k] = ratio(rows[..., k].sum(axis=1), rows[..., -3].sum(axis=1))
    return result


def against_reference(study: Study, resamples: int = 2000, seed: int = 0) -> list[Verdict]:
    """A verdict per claim and regularizer other than the reference; none if the study lacks it."""
    if study.reference not in study.regularizers:
        return []
    asked = claims(study)
    names = [claim.column for claim in asked]
    base = table(study, study.reference, names)
    before = np.mean([measures(rows[None], names)[0] for rows in base], axis=0)
    verdicts = []
    for regularizer in study.regularizers[1:]:
        soft = table(study, regularizer, names)
        change = paired_difference(
            soft,
            base,
            lambda rows: measures(rows, names),
            resamples=resamples,
            seed=seed,
            grouped=True,
            shared_samples=True,
        )
        for k, claim in enumerate(asked):
            verdicts.append(
                Verdict(
                    claim.text,
                    claim.measure,
                    regularizer,
                    claim.direction,
                    float(before[k]),
                    float(before[k] + change.estimate[k]),
                    float(change.estimate[k]),
                    float(change.low[k]),
                    float(change.high[k]),
                    claim.leading,
                )
            )
    return verdicts


COSINES = {"cosine": "Higher cosine, lower ASR, within one model",
           "cosine_in_span": "Higher in-span cosine, lower ASR, within one model"}  # fmt: skip


def within_models(study: Study, resamples: int = 2000, seed: int = 0) -> list[Verdict]:
    """Per model and attack: ASR of the correct samples' half with the higher cosine minus that of the other half.

    With the raw cosine, and with that of the in-span part where the study has it.
    """
    verdicts = []
    for column, claim in COSINES.items():
        if column not in study.samples:
            continue
        for regularizer in study.regularizers:
            upper, lower = _halves(study, column, regularizer)
            flipped = [study.column(f"success_{attack['id']}", regularizer).astype(float) for attack in study.attacks]
            # Every attack in one bootstrap: (samples, 2 + 2 attacks) a seed.
            groups = [
                np.stack([up, down, *(hit[k] * part for hit in flipped for part in (up, down))], axis=-1)
                for k, (up, down) in enumerate(zip(upper, lower, strict=True))
            ]
            change: Interval = bootstrap_interval(
                groups, _half_gaps, resamples=resamples, seed=seed, grouped=True, shared_samples=True
            )
            sums = np.sum(groups, axis=1)
            for k, attack in enumerate(study.attacks):
                verdicts.append(
                    Verdict(
                        claim,
                        f"ASR, {attack_name(attack)}",
                        regularizer,
                        -1,
                        float(ratio(sums[:, 3 + 2 * k], sums[:, 1]).mean()),
                        float(ratio(sums[:, 2 + 2 * k], sums[:, 0]).mean()),
                        float(change.estimate[k]),
                        float(change.low[k]),
                        float(change.high[k]),
                    )
                )
    return verdicts


def _halves(study: Study, column: str, regularizer: str) -> tuple[list[Array], list[Array]]:
    """Per seed, which judged samples are in the half with the higher value of `column`, and which in the other."""
    halves = []
    for values, judged in zip(study.column(column, regularizer), study.judged(regularizer), strict=True):
        upper = judged & (values > (np.median(values[judged]) if judged.any() else 0.0))
        halves.append((upper.astype(float), (judged & ~upper).astype(float)))
    return [up for up, _ in halves], [down for _, down in halves]


DRAWS = 20_000_000  # rows that a bootstrap may draw for each model


def verdicts(study: Study, resamples: int | None = None, seed: int = 0) -> list[Verdict]:
    """Every verdict that ``study`` can give, in the page's order.

    ``resamples`` is by default 2,000, and fewer, at least 400, for more than 10,000 samples.
    """
    resamples = resamples or min(2000, max(400, DRAWS // study.order[study.regularizers[0]].shape[1]))
    return against_reference(study, resamples, seed) + within_models(study, resamples, seed)


def _half_gaps(rows: Array) -> Array:
    """ASR of the upper half minus that of the lower, per attack: (R, n, 2 + 2 attacks) → (R, attacks)."""
    sums = rows.sum(axis=1)
    return ratio(sums[:, 2::2], sums[:, :1]) - ratio(sums[:, 3::2], sums[:, 1:2])


def ratio(part: Any, whole: Any) -> Array:
    """``part / whole``, NaN where the whole is 0."""
    return np.divide(
        part,
        whole,
        out=np.full(np.broadcast_shapes(np.shape(part), np.shape(whole)), np.nan),
        where=np.asarray(whole) > 0,
    )
