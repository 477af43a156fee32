import dataclasses
import json

import numpy as np
import pytest

from regfast.calibration.bins import expected_calibration_error
from regfast.report.claims import Verdict, against_reference, claims, verdicts, within_models
from regfast.report.results import Study


@pytest.fixture(scope="module")
def study(run_dir):
    return Study.read(run_dir)


@pytest.fixture(scope="module")
def answers(study):
    return {(v.claim, v.measure, v.regularizer): v for v in verdicts(study, resamples=400)}


def find(answers, claim, measure, regularizer):
    return next(
        v for (c, m, r), v in answers.items() if c.startswith(claim) and m.startswith(measure) and r == regularizer
    )


def test_known_effects_get_the_right_verdict(answers):
    # The made-up study: smoothing 0.40 / 0.70 against 0.60 / 0.55; Mixup's cosine falls; CutMix keeps the magnitude.
    assert find(answers, "Magnitude falls", "feature RMS", "smoothing").answer == "holds"
    assert find(answers, "Cosine rises", "cosine to", "smoothing").answer == "holds"
    assert find(answers, "Cosine rises", "cosine to", "mixup").answer == "does not hold"
    assert find(answers, "Magnitude falls", "feature RMS", "cutmix").effect == pytest.approx(0.01, abs=0.02)
    assert find(answers, "Calibration error falls", "ECE", "smoothing").answer == "holds"
    assert find(answers, "Attacks succeed less", "ASR, PGD", "mixup").answer == "holds"
    assert find(answers, "Attacks succeed less", "ASR, PGD", "smoothing").answer == "undecided"


def test_effects_equal_the_plain_computation(study, answers):
    def asr(name):
        correct, success = study.column("correct", name), study.column("success_pgd", name)
        return np.mean([s[c].mean() for c, s in zip(correct, success, strict=True)])

    def ece(name):
        pairs = zip(study.column("confidence", name), study.column("correct", name), strict=True)
        return np.mean([expected_calibration_error(c, r) for c, r in pairs])

    for name in ("smoothing", "mixup", "cutmix"):
        v = find(answers, "Attacks succeed less", "ASR, PGD", name)
        assert (v.before, v.after) == (pytest.approx(asr("hard")), pytest.approx(asr(name)))
        assert v.effect == pytest.approx(asr(name) - asr("hard"))
        v = find(answers, "Calibration error falls", "ECE", name)
        assert v.effect == pytest.approx(ece(name) - ece("hard"))
        v = find(answers, "Magnitude falls", "feature RMS", name)
        assert v.effect == pytest.approx(study.column("rms", name).mean() - study.column("rms", "hard").mean())
        assert v.low <= v.effect <= v.high


def test_success_of_wrong_samples_never_counts(study):
    samples = dict(study.samples)
    samples["success_pgd"] = samples["success_pgd"] | ~samples["correct"]
    changed = dataclasses.replace(study, samples=samples)
    assert against_reference(changed, resamples=50) == against_reference(study, resamples=50)
    assert within_models(changed, resamples=50) == within_models(study, resamples=50)


def test_where_some_samples_were_attacked_success_counts_of_those(study):
    attacked = study.samples["sample"] % 3 == 0
    some = dataclasses.replace(study, samples={**study.samples, "attacked": attacked})
    only = dataclasses.replace(study, samples={k: v[attacked] for k, v in study.samples.items()})
    found, expected = (
        [(v.regularizer, v.before, v.after) for v in against_reference(s, resamples=2) if "ASR" in v.measure]
        for s in (some, only)
    )
    assert [f[0] for f in found] == [e[0] for e in expected]
    np.testing.assert_allclose([f[1:] for f in found], [e[1:] for e in expected])


def test_any_model_can_be_the_reference(study):
    other = dataclasses.replace(study, config={**study.config, "reference": "mixup"})
    assert other.regularizers == ["mixup", "hard", "smoothing", "cutmix"]
    found = {(v.measure, v.regularizer): v for v in against_reference(other, resamples=2)}
    v = found["feature RMS", "hard"]
    assert v.effect == pytest.approx(study.column("rms", "hard").mean() - study.column("rms", "mixup").mean())
    assert {v.measure for v in found.values() if v.leading} == {
        "feature RMS",
        "cosine to the class center",
        "ECE",
        "ASR, PGD-20 (ℓ∞ ε = 0.03, strong)",
    }


@pytest.mark.parametrize(
    ("column", "claim"),
    [("cosine", "Higher cosine, lower ASR"), ("cosine_in_span", "Higher in-span cosine, lower ASR")],
)
def test_within_one_model_compares_the_halves_by_cosine(study, answers, column, claim):
    v = find(answers, claim, "ASR, PGD", "hard")
    before, after = [], []
    for cosine, correct, success in zip(
        study.column(column, "hard"),
        study.column("correct", "hard"),
        study.column("success_pgd", "hard"),
        strict=True,
    ):
        upper = cosine > np.median(cosine[correct])
        before.append(success[correct & ~upper].mean())
        after.append(success[correct & upper].mean())
    assert (v.before, v.after) == (pytest.approx(np.mean(before)), pytest.approx(np.mean(after)))
    assert v.effect == pytest.approx(v.after - v.before)


def test_the_same_files_give_the_same_verdicts(study):
    assert verdicts(study, resamples=50) == verdicts(study, resamples=50)


@pytest.mark.parametrize(
    ("direction", "low", "high", "answer"),
    [
        (1, 0.1, 0.2, "holds"),
        (1, -0.2, -0.1, "does not hold"),
        (1, -0.1, 0.1, "undecided"),
        (-1, -0.2, -0.1, "holds"),
        (-1, 0.1, 0.2, "does not hold"),
        (-1, 0.0, 0.2, "undecided"),
        (-1, float("nan"), float("nan"), "undecided"),
    ],
)
def test_the_rule(direction, low, high, answer):
    assert Verdict("c", "m", "r", direction, 0, 0, (low + high) / 2, low, high).answer == answer


def test_without_hard_labels_only_the_claims_within_models_are_left(make_study, tmp_path):
    folder = make_study(tmp_path / "run", seeds=1, samples=60)
    study = Study.read(folder)
    keep = study.samples["regularizer"] != "hard"
    softer = dataclasses.replace(study, samples={k: v[keep] for k, v in study.samples.items()})
    assert {v.claim for v in verdicts(softer, resamples=20)} == {
        "Higher cosine, lower ASR, within one model",
        "Higher in-span cosine, lower ASR, within one model",
    }


def test_claims_follow_the_columns_and_attacks(study):
    bare = {k: v for k, v in study.samples.items() if "in_span" not in k}
    columns = [c.column for c in claims(dataclasses.replace(study, samples=bare))]
    assert columns == ["rms", "cosine", "ece", "asr_fgsm", "asr_pgd"]
    assert json.dumps(columns)


def test_a_model_that_is_never_right_leaves_its_attacks_undecided(study):
    samples = dict(study.samples)
    samples["correct"] = samples["correct"] & (samples["regularizer"] != "mixup")
    answers = verdicts(dataclasses.replace(study, samples=samples), resamples=20)
    about_attacks = [v for v in answers if v.regularizer == "mixup" and "ASR" in v.measure]
    assert len(about_attacks) == 6  # two attacks: against hard labels, by cosine and by in-span cosine
    assert {v.answer for v in about_attacks} == {"undecided"}
