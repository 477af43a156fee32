import numpy as np
import pytest
import torch

from regfast.calibration import brier_score, brier_scores, negative_log_likelihood, negative_log_likelihoods


def test_brier_is_the_squared_distance_to_the_one_hot_row():
    probabilities = torch.softmax(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), 1)
    labels = torch.arange(50) % 4
    expected = (probabilities - torch.nn.functional.one_hot(labels, 4)).double().pow(2).sum(dim=1)
    np.testing.assert_allclose(brier_scores(probabilities, labels), expected.numpy(), atol=1e-6)
    assert brier_score(probabilities, labels) == pytest.approx(float(expected.mean()), abs=1e-6)
    assert brier_score(torch.eye(3), torch.arange(3)) == 0
    assert brier_score(torch.eye(3), torch.tensor([1, 2, 0])) == 2
    assert brier_score(torch.full((1, 4), 0.25), torch.tensor([2])) == pytest.approx(0.75)


def test_nll_is_cross_entropy_and_survives_saturation():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(50) % 4
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(negative_log_likelihoods(logits, labels), expected.numpy(), atol=1e-12)
    assert negative_log_likelihood(logits, labels) == pytest.approx(float(expected.mean()), abs=1e-12)
    assert negative_log_likelihood(torch.tensor([[2000.0, 0.0]]), torch.tensor([1])) == 2000


def test_inputs_are_left_alone_and_checked():
    probabilities = np.eye(2)
    brier_score(probabilities, np.array([0, 0]))
    np.testing.assert_array_equal(probabilities, np.eye(2))
    with pytest.raises(ValueError, match="softmax"):
        brier_score(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="logits"):
        negative_log_likelihood(torch.ones(2, 3), torch.zeros(3, dtype=torch.int64))


def test_ignored_samples_are_left_out():
    logits, labels = torch.randn(30, 4), torch.arange(30) % 4
    kept = torch.arange(30) % 3 > 0
    marked = torch.where(kept, labels, -100)
    for score, rows in ((brier_scores, logits.softmax(1)), (negative_log_likelihoods, logits)):
        assert np.array_equal(score(rows, marked), score(rows[kept], labels[kept]))
    assert brier_score(logits.softmax(1), marked) == brier_score(logits.softmax(1)[kept], labels[kept])
    assert negative_log_likelihood(logits, marked) == negative_log_likelihood(logits[kept], labels[kept])


def test_logits_without_a_likelihood_are_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"logits must not be NaN or .infinity"):
            negative_log_likelihood(np.array([[0.0, 1.0], [bad, 0.0]]), np.array([0, 0]))
    assert negative_log_likelihood(np.array([[0.0, -np.inf]]), np.array([0])) == 0
