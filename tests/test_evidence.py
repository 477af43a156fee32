"""The search for a strength that gives a statistic Mixup's value."""

from __future__ import annotations

import math

import pytest

from benchmarks.evidence.match import GRID, match


def trainings(mixup, of):
    """A made-up training: hard labels give 1, Mixup `mixup`, the intervention `of(strength)`."""

    def train(name, strength=0.0):
        return {"rms": {"hard": 1.0, "mixup": mixup}.get(name, of(strength))}

    return train


@pytest.mark.parametrize("exact", [0.0004, 0.02, 0.0999, 0.1, 0.2, 30.0, 5000.0])
@pytest.mark.parametrize("rises", [True, False])
def test_strength_that_gives_mixups_value(exact, rises):
    sign = 1 if rises else -1
    found = match(trainings(1 + sign * math.log1p(exact), lambda s: 1 + sign * math.log1p(s)), "penalty", "rms", rises)
    reachable = min(max(exact, GRID[0]), GRID[-1])
    assert found.strength == pytest.approx(reachable, rel=10**0.0625 - 1 + 1e-9), "half of a sixteenth of a decade"
    assert found.got == 1 + sign * math.log1p(found.strength)


def test_nothing_to_match_where_mixup_goes_the_other_way():
    found = match(trainings(0.9, lambda s: 1 + s), "reward", "rms", rises=True)
    assert found.strength is None and found.got is None
