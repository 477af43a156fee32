"""The strength at which an intervention gives a statistic the value that Mixup gives it.

Every training of the search is kept in a JSON file, so that a search that was interrupted goes on, and readers see how
a strength was found. The seeds of the search are not those of the study that uses its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from regfast.data import Splits
from regfast.models import load_model
from regfast.runs.files import read_json, write_json
from regfast.study import StudyConfig
from regfast.study.config import built
from regfast.training import train

STATISTICS = ("accuracy", "rms", "cosine", "cosine_in_span")
GRID = tuple(10.0 ** (half / 2) for half in range(-6, 7))  # 0.001 to 1000, two a decade


@dataclass(frozen=True)
class Trainings:
    """Trains with any regularizer, once for each of `seeds`, and remembers in `path` what came out."""

    config: StudyConfig
    splits: Splits
    seeds: tuple[int, ...]
    path: Path
    say: Callable[[str], None] = print

    def __call__(self, name: str, **options: Any) -> dict[str, float]:
        """Held-out `STATISTICS` after training, means over the seeds."""
        key = ":".join([name, *(f"{option}={value:.6g}" for option, value in options.items())])
        done = read_json(self.path) if self.path.is_file() else {}
        for seed in self.seeds:
            if str(seed) not in done.setdefault(key, {}):
                done[key][str(seed)] = self._train(name, options, seed)
                write_json(self.path, done)
        found = [done[key][str(seed)] for seed in self.seeds]
        means = {statistic: float(np.mean([one[statistic] for one in found])) for statistic in STATISTICS}
        self.say(f"{key}: {', '.join(f'{statistic} {value:.3f}' for statistic, value in means.items())}")
        return means

    def _train(self, name: str, options: dict[str, Any], seed: int) -> dict[str, float]:
        splits, config = self.splits, self.config
        model = load_model(config.model, num_classes=splits.num_classes, in_channels=splits.image_shape[0], seed=seed)
        history = train(model, splits.train, splits.holdout, built(name, options), config.recipe, seed=seed)
        return {statistic: getattr(history[-1], statistic) for statistic in STATISTICS}


@dataclass(frozen=True)
class Match:
    """`strength` at which `intervention` came nearest to `aim`, the value that Mixup gives `statistic`; it gave `got`.

    `hard` is the value with hard labels. `strength` is None where Mixup does not move the statistic in the direction
    that the paper names: there is nothing to match.
    """

    intervention: str
    statistic: str
    hard: float
    aim: float
    strength: float | None
    got: float | None


def match(trainings: Trainings, intervention: str, statistic: str, rises: bool, rounds: int = 3) -> Match:
    """Walk the grid from 0.1 until `statistic` passes Mixup's, then halve the interval on a log scale."""
    sign = 1 if rises else -1
    hard, aim = trainings("hard")[statistic], trainings("mixup")[statistic]
    if sign * (aim - hard) <= 0:
        return Match(intervention, statistic, hard, aim, None, None)
    tried: dict[float, float] = {}

    def passes(strength: float) -> bool:
        tried[strength] = trainings(intervention, strength=strength)[statistic]
        return sign * (tried[strength] - aim) >= 0

    place = GRID.index(0.1)
    step = -1 if passes(GRID[place]) else 1
    while 0 <= place + step < len(GRID) and passes(GRID[place + step]) == (step == -1):
        place += step
    low, high = sorted((GRID[place], GRID[min(max(place + step, 0), len(GRID) - 1)]))
    for _ in range(rounds):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if passes(middle) else (middle, high)
    best = min(tried, key=lambda strength: abs(tried[strength] - aim))
    return Match(intervention, statistic, hard, aim, best, tried[best])
