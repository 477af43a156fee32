import math

import numpy as np
import pytest
import torch

from regfast.representation import Predictors, boundary_distance, class_centers, predictor_power, predictor_scores
from tests.representation.closed_forms import random_head, simplex


def test_scores_are_what_they_are_called():
    weight = simplex(4, 6)
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(50) % 4
    centers = class_centers(weight, radius=2.0)
    scores = predictor_scores(features, weight, None, labels, centers, 3 * weight + 1)
    logits = features @ weight.T
    # On an ETF with collapsed means all three directions are one.
    for name in ("class_mean", "v_opt"):
        torch.testing.assert_close(torch.tensor(getattr(scores, name)), torch.tensor(scores.weight), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.tensor(scores.norm), features.norm(dim=1))
    own = logits[torch.arange(50), labels]
    rest = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    torch.testing.assert_close(torch.tensor(scores.margin), own - rest)
    torch.testing.assert_close(torch.tensor(scores.confidence), torch.softmax(logits, 1).amax(1))


def test_margin_predicts_an_etfs_robustness_perfectly():
    weight = simplex(4, 6)
    features = torch.randn(400, 6, generator=torch.Generator().manual_seed(1)).double()
    labels = (features @ weight.T).argmax(1)
    way = boundary_distance(features, weight, None, labels)
    robust = way.distance > way.distance.median()
    scores = predictor_scores(features, weight, None, labels, class_centers(weight, radius=1.0), weight)
    power = predictor_power(scores, robust, resamples=100, seed=3)
    # Equal distances between the rows: the margin is the distance, up to a factor.
    assert power["margin"].auc == (1.0, 1.0, 1.0)
    assert power["margin"].over_v_opt.estimate == pytest.approx(1 - power["v_opt"].auc.estimate)
    assert power["v_opt"].over_v_opt == (0.0, 0.0, 0.0)
    for name, value in power.items():
        assert value.auc.low <= value.auc.estimate <= value.auc.high, name
    again = predictor_power(scores, robust.numpy(), resamples=100, seed=3)
    assert again == power


def test_auc_counts_the_pairs_in_order():
    rng = np.random.default_rng(1)
    scores = Predictors(*(rng.integers(0, 8, 60).astype(float) for _ in range(6)))
    robust = rng.random(60) < 0.4
    power = predictor_power(scores, robust, resamples=50)
    for name, score in scores._asdict().items():
        pairs = score[robust][:, None] - score[~robust][None]
        assert power[name].auc.estimate == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert power["margin"].over_v_opt.estimate == pytest.approx(power["margin"].auc[0] - power["v_opt"].auc[0])
    assert math.isnan(predictor_power(scores, np.ones(60, dtype=bool), resamples=5)["norm"].auc.estimate)
    with pytest.raises(ValueError, match="robust"):
        predictor_power(scores, robust[:5])


def test_bad_input_is_named():
    weight, bias = random_head(3, 4)
    features, labels = torch.zeros(2, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="centers"):
        predictor_scores(features, weight, bias, labels, weight[:2], weight)
    with pytest.raises(ValueError, match="means"):
        predictor_scores(features, weight, bias, labels, weight, weight[:, :2])
    with pytest.raises(IndexError, match="labels"):
        predictor_scores(features, weight, bias, labels + 2, weight, weight)
