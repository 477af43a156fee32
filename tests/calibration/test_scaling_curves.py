import numpy as np
import pytest
import torch

from regfast.calibration import fit_feature_scale, fit_temperature, negative_log_likelihood, scaling_curves

SCALES = [0.1, 0.5, 1.0, 2.0, 10.0]


def linear_model(seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(5, generator=generator, dtype=torch.float64)
    features = torch.randn(400, 8, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(0.6 * features @ weight.T + bias, 1), 1, generator=generator)[:, 0]
    return features, weight, bias, labels


def test_both_agree_exactly_when_the_bias_is_constant():
    features, weight, _, labels = linear_model()
    for bias in (None, torch.full((5,), 2.0)):
        curves = scaling_curves(features, weight, bias, labels, SCALES)
        for first, second in zip(curves.temperature, curves.feature, strict=True):
            np.testing.assert_allclose(first, second, atol=1e-12)
        assert (curves.feature.changed == 0).all()


def test_changed_predictions_come_from_the_bias_alone():
    features, weight, bias, labels = linear_model(1)
    curves = scaling_curves(features, weight, bias, labels, SCALES)
    assert (curves.temperature.changed == 0).all()
    logits = features @ weight.T + bias
    for index, scale in enumerate(SCALES):
        # s·(z + (1-s)/s·b): the same predictions as z + (1-s)/s·b.
        moved = (logits + (1 - scale) / scale * bias).argmax(1)
        assert curves.feature.changed[index] == pytest.approx(float((moved != logits.argmax(1)).double().mean()))
    assert curves.feature.changed[2] == 0
    assert curves.feature.changed[0] > 0.1
    assert curves.feature.nll[2] == pytest.approx(negative_log_likelihood(logits, labels))


def test_fitted_scales_are_the_minima_of_the_curves():
    features, weight, bias, labels = linear_model(2)
    for name, best in (
        ("temperature", 1 / fit_temperature(features @ weight.T + bias, labels)),
        ("feature", fit_feature_scale(features, weight, bias, labels)),
    ):
        curve = getattr(scaling_curves(features, weight, bias, labels, [0.99 * best, best, 1.01 * best]), name)
        assert curve.nll[1] < min(curve.nll[0], curve.nll[2])


def test_bad_input_is_named():
    features, weight, bias, labels = linear_model()
    with pytest.raises(ValueError, match="scales"):
        scaling_curves(features, weight, bias, labels, [])
    with pytest.raises(ValueError, match="scales must be above 0"):
        scaling_curves(features, weight, bias, labels, [0.0])


def test_ignored_samples_are_left_out():
    features, weight, bias, labels = linear_model(4)
    kept = torch.arange(400) % 3 > 0
    marked = torch.where(kept, labels, -100)
    ours = scaling_curves(features, weight, bias, marked, SCALES)
    theirs = scaling_curves(features[kept], weight, bias, labels[kept], SCALES)
    for one, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(IndexError, match="labels must lie in"):
        scaling_curves(features, weight, bias, marked, SCALES, ignore_index=-1)
    with pytest.raises(ValueError, match="labels must have shape"):
        scaling_curves(features, weight, bias, labels[:3], SCALES)
