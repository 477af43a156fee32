import math
import warnings

import pytest
import torch

from regfast.calibration import (
    apply_temperature,
    fit_feature_scale,
    fit_temperature,
    negative_log_likelihood,
    negative_log_likelihoods,
    scale_features,
)


def sampled(n, num_classes, seed, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator)[:, 0]
    return logits, labels


def test_temperature_is_where_the_likelihood_is_flat():
    logits, labels = sampled(500, 6, 0)
    for factor in (0.05, 1.0, 17.0):
        temperature = torch.tensor(fit_temperature(factor * logits, labels), dtype=torch.float64, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(factor * logits / temperature, labels)
        slope = torch.autograd.grad(loss, temperature)[0] * temperature
        assert abs(slope.item()) < 1e-9
    # Scaling the logits scales the temperature, to the 1e-6 that is promised.
    assert fit_temperature(17 * logits, labels) == pytest.approx(17 * fit_temperature(logits, labels), rel=1e-8)


def test_temperature_recovers_a_known_one():
    logits, labels = sampled(40_000, 3, 1)
    assert fit_temperature(2.5 * logits, labels) == pytest.approx(2.5, rel=0.03)
    # Two classes, logits ±a, share p right: sigmoid(2a/T) = p exactly.
    logits = torch.tensor([[1.0, -1.0]]).repeat(10, 1)
    labels = torch.tensor([0] * 8 + [1] * 2)
    assert fit_temperature(logits, labels) == pytest.approx(2 / math.log(4), rel=1e-12)


@pytest.mark.parametrize("factor", [1e-6, 0.02, 1, 500, 1e7])
@pytest.mark.parametrize("n", [4000, 20_000])
def test_temperature_is_found_whatever_the_scale(factor, n):
    """Logits times 500 of calibrated ones need 500; 20,000 samples begin from the fit of some of them."""
    logits, labels = sampled(n, 5, 0)
    fitted = fit_temperature(factor * logits, labels)
    assert fitted == pytest.approx(factor, rel=0.05)
    assert fitted == pytest.approx(factor * fit_temperature(logits, labels), rel=1e-9)


def test_ignored_samples_are_left_out():
    logits, labels = sampled(300, 4, 5)
    kept = torch.arange(300) % 3 > 0
    for ignored in (-100, 7):
        marked = torch.where(kept, labels, ignored)
        spoiled = torch.where(kept[:, None], logits, torch.nan)
        assert fit_temperature(spoiled, marked, ignore_index=ignored) == fit_temperature(logits[kept], labels[kept])
    head = torch.eye(4).double()
    assert fit_feature_scale(spoiled, head, None, marked, ignore_index=7) == fit_feature_scale(
        logits[kept], head, None, labels[kept]
    )


def test_a_few_samples_that_say_nothing_do_not_lead_astray():
    """Every 16th of 32,768 samples is right: the start that they would give is at infinity."""
    logits, labels = sampled(32_768, 3, 6)
    labels[::16] = logits[::16].argmax(1)
    slope = torch.tensor(fit_temperature(logits, labels), dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits / slope, labels)
    assert abs(torch.autograd.grad(loss, slope)[0].item()) < 1e-9


def test_temperature_changes_no_prediction_and_lowers_the_loss():
    logits, labels = sampled(300, 4, 2, scale=6)
    logits = 3 * logits
    fitted = apply_temperature(logits, fit_temperature(logits, labels))
    assert torch.equal(fitted.argmax(1), logits.argmax(1))
    cross_entropy = torch.nn.functional.cross_entropy
    assert float(cross_entropy(fitted, labels)) < float(cross_entropy(logits, labels))


def test_no_minimum_warns_and_returns_the_bound():
    logits = torch.eye(3) * 5
    with pytest.warns(RuntimeWarning, match="no minimum"):
        assert fit_temperature(logits, torch.arange(3)) == pytest.approx(0.01)
    with pytest.warns(RuntimeWarning, match="no minimum"):
        assert fit_temperature(logits, torch.tensor([1, 2, 0])) == pytest.approx(100)


def test_feature_scale_is_inverse_temperature_when_the_bias_is_constant():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    features = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(0.5 * features @ weight.T, 1), 1, generator=generator)[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for bias in (None, torch.full((4,), 3.0).double()):
            scale = fit_feature_scale(features, weight, bias, labels)
            logits = scale_features(features, weight, bias, 1.0)
            assert scale == pytest.approx(1 / fit_temperature(logits, labels), rel=1e-8)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    difference = scale_features(features, weight, bias, 0.3) - apply_temperature(features @ weight.T + bias, 1 / 0.3)
    torch.testing.assert_close(difference, (0.7 * bias).expand(300, 4))
    scale = torch.tensor(fit_feature_scale(features, weight, bias, labels), dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(scale * (features @ weight.T) + bias, labels)
    assert abs(torch.autograd.grad(loss, scale)[0].item()) < 1e-9


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))
    with pytest.raises(IndexError, match="labels"):
        fit_temperature(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ValueError, match="K >= 2 classes, got \\(3, 1\\); a single logit z stands for"):
        fit_temperature(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(IndexError, match="labels"):
        fit_temperature(torch.zeros(1, 2), torch.tensor([-1]))
    with pytest.raises(ValueError, match="holds no samples"):
        fit_temperature(torch.zeros(1, 2), torch.tensor([-100]))
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="temperature"):
            apply_temperature(torch.zeros(1, 2), value)
    with pytest.raises(ValueError, match="bias must have shape"):
        fit_feature_scale(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(2), torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("measure", [fit_temperature, negative_log_likelihood, negative_log_likelihoods])
def test_probabilities_are_no_logits(measure, dtype):
    logits, labels = 3 * torch.randn(40, 10), torch.randint(10, (40,))
    labels[::5] = -100
    probabilities = logits.softmax(1).to(dtype)
    with pytest.raises(ValueError, match="logits are probabilities"):
        measure(probabilities, labels)
    measure((probabilities.double() + 1e-9).log(), labels)
