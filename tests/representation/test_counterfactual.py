import math

import pytest
import torch

from regfast.calibration import expected_calibration_error
from regfast.representation import boundary_distance, counterfactual, swap_norms
from tests.representation.closed_forms import random_head, simplex, unit


def test_swap_takes_rms_from_one_and_directions_from_the_other():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(20, 6, generator=generator), torch.randn(20, 24, generator=generator)
    swapped = swap_norms(first, second)
    torch.testing.assert_close(unit(swapped), unit(first.double()))
    torch.testing.assert_close(swapped.pow(2).mean(1), second.double().pow(2).mean(1))
    torch.testing.assert_close(swap_norms(first, first), first.double())
    assert torch.equal(swap_norms(torch.zeros(1, 3), torch.ones(1, 3)), torch.zeros(1, 3).double())


def test_own_norms_give_the_model_itself():
    weight, bias = random_head(4, 6, seed=1)
    features = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(300) % 4
    probabilities = torch.softmax(features @ weight.T + bias, 1)
    correct = probabilities.argmax(1) == labels
    result = counterfactual(features, features, weight, bias, labels, eps=0.2)
    assert result.accuracy == pytest.approx(float(correct.double().mean()))
    assert result.ece == pytest.approx(expected_calibration_error(probabilities.amax(1), correct))
    way = boundary_distance(features, weight, bias, labels)
    assert result.distance == pytest.approx(float(way.distance[correct].median()))
    assert result.asr_exact == pytest.approx(float((way.distance[correct] <= 0.2).double().mean()))
    assert result.asr <= result.asr_exact + 1e-12


def test_on_an_etf_norms_carry_everything():
    weight = simplex(5, 7)
    labels = torch.arange(5)
    long, short = 4 * unit(weight), 1 * unit(weight)
    result = counterfactual(long, short, weight, None, labels, eps=0.5)
    # Without bias the boundary's distance is proportional to the length: sqrt(5/8) of it.
    assert result.distance == pytest.approx(math.sqrt(5 / 8))
    assert result.gradient_distance == pytest.approx(1)
    assert result.accuracy == 1
    own = 1 / (1 + 4 * math.exp(-5 / 4))
    assert result.ece == pytest.approx(1 - own)


def test_nothing_right_is_nan_not_zero():
    weight = simplex(2, 2)
    result = counterfactual(weight, weight, weight, None, torch.tensor([1, 0]), eps=0.1)
    assert result.accuracy == 0
    assert all(math.isnan(value) for value in (result.distance, result.asr, result.asr_exact))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="norms must have shape"):
        swap_norms(torch.ones(2, 3), torch.ones(3, 3))
