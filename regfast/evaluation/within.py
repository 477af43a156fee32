"""Progress inside a chunk: what the attacks on it have done so far, in samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from regfast.attacks.base import Attack, Runnable
from regfast.attacks.progress import Silent


class Within(Silent):
    """Tells `within` how many of the chunk's `samples` the work done so far is worth.

    Work counts in gradients: what is done, against it and what is left at most, where every sample that stands now
    stands to the end of all attacks.

    Args:
        groups: attacks that differ in eps alone, by rising eps, as `group_by_eps` makes them.
        samples: of the chunk; `correct` of them are attacked.
        within: what to tell.
    """

    def __init__(
        self, groups: Sequence[Sequence[Runnable]], samples: int, correct: int, within: Callable[[float], None]
    ) -> None:
        super().__init__()
        self._groups, self._samples, self._correct, self._within = groups, samples, correct, within
        self._before = self._work = 0.0  # in the stages before this one, and in it
        self._stages: list[float] = []  # cost of those to come, for a sample
        self._others = 0.0  # what the groups to come take at most

    def enter(self, attack: Runnable) -> None:
        """`attack` begins; those before it are done, or had nothing to do."""
        place, group = next((k, group) for k, group in enumerate(self._groups) if attack in group)
        here = [stage for each in group[group.index(attack) :] for stage in each.stages()]
        self._stages = [stage_cost(stage) for stage in here]
        later = [stage for group in self._groups[place + 1 :] for each in group for stage in each.stages()]
        self._others = self._correct * sum(map(stage_cost, later))

    def begin(self, name: str, total: int) -> None:
        """The next stage of the attack begins."""
        self._before, self._work = self._before + self._work, 0.0
        self._cost = self._stages.pop(0)
        super().begin(name, total)

    def tell(self, work: float, left: float) -> None:
        """So much of the stage is done, and at most so much is left, in samples that stand to its end."""
        self._work = self._cost * work
        done = self._before + self._work
        standing = (self.total - self.broken) * sum(self._stages)
        self._within(self._samples * done / (done + self._cost * left + standing + self._others))


def answers(stage: Attack, classes: int | None = None) -> int:
    """At how many points `stage` asks about a sample that stands to its end; `classes` limit its targets."""
    targets = int(stage.options.get("targets") or 0)
    targets = targets if classes is None else min(targets, classes - 1)
    return stage.runs * max(targets, 1) * (stage.steps + 1)


def stage_cost(stage: Attack) -> float:
    """What a sample that stands costs in this stage, in gradients; a forward pass is a third of one."""
    asked = answers(stage) * stage.samples
    return asked / 3 if stage.needs == "forward" else float(asked)
