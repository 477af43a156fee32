"""What an attack says of itself while it runs."""

import io

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TaskProgressColumn, TextColumn
from torch import nn

from regfast.attacks import PGD, AutoAttack
from regfast.attacks.progress import Bar, Lines, Silent


class Notes(Silent):
    def __init__(self):
        super().__init__()
        self.stages = []

    def begin(self, name, total):
        self.stages.append((name, total, []))
        super().begin(name, total)

    def tell(self, work, left):
        self.stages[-1][2].append((work, left))


def problem(samples=12):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).eval()
    images = torch.rand(samples, 1, 4, 4)
    return model, images, model(images).argmax(1)


def test_a_watcher_sees_every_stage_move_forward_within_samples():
    model, images, labels = problem()
    notes = Notes()
    result = AutoAttack("linf", 0.02, version="fast").run(model, images, labels, lanes=3, progress=notes)
    assert [name for name, _, _ in notes.stages] == ["apgd-pma", "apgd-t", "fab-t", "square"]
    assert notes.stages[0][1] == 12 and notes.done == notes.total and bool(result.robust.any())
    for _, total, told in notes.stages:
        work, left = zip(*told, strict=True)
        assert told[0] == (0, total) and list(work) == sorted(work) and list(left) == sorted(left, reverse=True)
        assert work[-1] <= total + 1e-9 and any(value % 1 for value in work), "progress moves within samples"


def test_runs_and_targets_count_as_parts_of_a_sample():
    model, images, labels = problem(4)
    notes = Notes()
    PGD("linf", 1e-6, steps=4, restarts=2).run(model, images, labels, progress=notes)
    ((_, _, told),) = notes.stages
    assert told[1] == (pytest.approx(4 / 10), pytest.approx(4 - 4 / 10)) and told[-1] == (4, 0)


def test_outside_a_terminal_there_are_lines(capsys):
    model, images, labels = problem(4)
    PGD("linf", 1e-6, steps=4).run(model, images, labels, progress=Lines(interval=0.0))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("pgd: 0%, 0 of 4 broken") and "at most" in lines[-1]


@pytest.mark.parametrize("progress", ["yes", None, 1, object()])
def test_what_is_no_watcher_is_named(progress):
    model, images, labels = problem(4)
    with pytest.raises(TypeError, match="progress must be True, False or a Watcher"):
        PGD("linf", 1e-6, steps=4).run(model, images, labels, progress=progress)


def test_on_a_terminal_there_is_a_bar():
    model, images, labels = problem(4)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Progress(TextColumn("{task.description}"), TaskProgressColumn(), console=console) as shown:
        PGD("linf", 1e-6, steps=4).run(model, images, labels, progress=Bar(shown))
    assert "pgd: 0 of 4 broken" in console.file.getvalue() and "100%" in console.file.getvalue()
