from itertools import pairwise

import torch

from regfast.paper.parts.planes import bottleneck_model
from regfast.paper.parts.theorem1 import known_heads


def test_a_bottleneck_model_is_two_wide_and_comes_from_its_seed():
    state = torch.random.get_rng_state()
    one, other, third = (bottleneck_model("small-cnn", 10, 1, bias=True, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.random.get_rng_state())
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert one.features(images).shape == (3, 2) and one(images).shape == (3, 10)
    assert torch.equal(one(images), other(images)) and not torch.equal(one(images), third(images))
    assert bottleneck_model("resnet20", 4, 1, bias=False, seed=0).head.bias is None


def test_known_heads_hold_theorem_1_without_bias_and_break_it_with():
    rows = known_heads(6, [0.0, 0.2, 0.5, 0.9], 1e-3, 32, seed=1)

    def rises(head):
        norms = {}
        for row in rows:
            if row["head"] == head:
                norms.setdefault(row["label"], []).append(row["norm"])
        return sum(any(b > a * (1 + 1e-9) for a, b in pairwise(n)) for n in norms.values())

    assert rises("etf-6") == rises("random, no bias") == 0
    assert rises("random") > 0
    assert all(abs(row["norm"] - row["closed_form"]) < 1e-8 * row["norm"] for row in rows if row["head"] == "etf-6")
