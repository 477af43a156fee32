import pytest

from regfast.attacks import FGSM, PGD, AutoAttack
from regfast.evaluation import evaluate
from regfast.evaluation.plan import cost_bounds, plan_evaluation, plan_markdown
from tests.evaluation.toy import RowwiseLinear, Toy


def test_expected_evaluations_are_near_those_spent(tmp_path):
    model, data = RowwiseLinear().eval(), Toy(n=200)
    attacks = [PGD("linf", eps, steps=20) for eps in (0.005, 0.02)]
    plan = plan_evaluation(model, data, attacks, probe=100)
    result = evaluate(model, data, attacks, out=tmp_path / "run", progress=False, device="cpu")
    for planned, spent in zip(plan.attacks, result.summary["attacks"], strict=True):
        assert planned.eps == spent["eps"]
        assert spent["gradients"] / 1.5 < planned.gradients < spent["gradients"] * 1.5
    assert plan.clean_accuracy == pytest.approx(result.summary["clean"]["value"], abs=0.07)


def test_a_survivor_of_autoattack_is_charged_what_every_stage_costs():
    """4 classes: apgd-ce 101, apgd-t and fab-t 3 targets x 101 answers each, square 5,001 queries."""
    attack = AutoAttack("linf", 1e-6)
    plan = plan_evaluation(RowwiseLinear().eval(), Toy(), [attack], probe=60)
    (row,) = plan.attacks
    assert row.surviving == row.attacked == pytest.approx(54)
    assert row.gradients == pytest.approx(54 * (101 + 303 + 303))
    assert row.queries == pytest.approx(54 * (101 + 303 + 303 + 5001))


def test_what_falls_at_a_smaller_eps_is_not_charged_again():
    plan = plan_evaluation(RowwiseLinear().eval(), Toy(), [FGSM("linf", 0.5), FGSM("linf", 0.01)], probe=60)
    small, large = plan.attacks
    assert small.eps < large.eps
    assert large.attacked == small.surviving < small.attacked
    assert plan.memory_bytes > 0 and plan.gradient_seconds > 0
    text = plan_markdown(plan, workers=8)
    assert "on 8" in text and text.count("| fgsm |") == 2


def test_nothing_to_probe_is_an_error():
    with pytest.raises(ValueError, match="no readable sample"):
        plan_evaluation(RowwiseLinear().eval(), Toy(), [FGSM("linf", 0.1)], limit=0)


def test_bounds_hold_the_cheapest_and_the_dearest_sample(monkeypatch):
    times = iter((0.2, 0.6))  # of two images: a forward pass, a gradient
    monkeypatch.setattr("regfast.evaluation.plan._median_seconds", lambda *_, **__: next(times))
    low, high = cost_bounds(RowwiseLinear().eval(), (3, 4, 4), [PGD("linf", 0.1, steps=9)], samples=10)
    assert high == pytest.approx(10 * 0.1 + 10 * 10 * 0.3)  # the clean pass, and ten gradients each
    assert low == pytest.approx(10 * 0.1 + 10 * 3 * 0.3)


def test_a_large_model_is_probed_on_few_images(monkeypatch):
    monkeypatch.setattr("regfast.evaluation.plan._PROBE_SECONDS", 0.0)
    plan = plan_evaluation(RowwiseLinear().eval(), Toy(), [PGD("linf", 0.02, steps=5)], probe=40)
    assert plan.probed == 8


def test_bounds_of_a_model_with_named_outputs():
    model = RowwiseLinear().eval()
    low, high = cost_bounds(
        lambda images: {"logits": model(images)}, (3, 4, 4), [PGD("linf", 0.1, steps=9)], samples=10
    )
    assert 0 < low < high
