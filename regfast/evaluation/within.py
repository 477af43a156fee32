"""Progress inside a chunk: what the attacks on it have done so far, in samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from regfast.attacks.base import Attack, Runnable
from regfast.attacks.progress import Silent


class Within(Silent):
    """Tells `within` how many of the chunk's `samples` the work done so far is worth.

    All stages of all attacks count by what a sample costs that none of them breaks: where most samples fall, progress
    runs ahead of this at every stage's end.
    """

    def __init__(self, groups: Sequence[Sequence[Runnable]], samples: int, within: Callable[[float], None]) -> None:
        super().__init__()
        self._within = within
        self._costs = {
            id(attack): [stage_cost(stage) for stage in attack.stages()] for group in groups for attack in group
        }
        self._scale = samples / sum(map(sum, self._costs.values()))
        self._before, self._stages = 0.0, [0.0]

    def enter(self, attack: Runnable) -> None:
        """`attack` begins; those before it are done, or had nothing to do."""
        earlier = list(self._costs)[: list(self._costs).index(id(attack))]
        self._before = sum(sum(self._costs[key]) for key in earlier)
        self._stages = [0.0, *self._costs[id(attack)]]

    def begin(self, name: str, total: int) -> None:
        """The next stage of the attack begins."""
        self._before += self._stages.pop(0)
        super().begin(name, total)

    def tell(self, through: float) -> None:
        """`through` of the samples are behind this stage."""
        if self.total:
            self._within(self._scale * (self._before + self._stages[0] * through / self.total))


def answers(stage: Attack, classes: int | None = None) -> int:
    """At how many points `stage` asks about a sample that stands to its end; `classes` limit its targets."""
    targets = int(stage.options.get("targets") or 0)
    targets = targets if classes is None else min(targets, classes - 1)
    return stage.runs * max(targets, 1) * (stage.steps + 1)


def stage_cost(stage: Attack) -> float:
    """What a sample that stands costs in this stage, in gradients; a forward pass is a third of one."""
    asked = answers(stage) * stage.samples
    return asked / 3 if stage.needs == "forward" else float(asked)
