import time

import pytest

from regfast.runs import Silent
from regfast.runs.progress import Step, Steps, time_left


class Count(Silent):
    done = 0.0

    def advance(self, steps=1.0):
        self.done += steps


def test_a_step_counts_as_one_however_it_is_told():
    count = Count()
    step = Step(count)
    for share in (0.25, 0.2, 0.75):
        step.reach(share)
    assert count.done == pytest.approx(0.75)
    step.finish()
    step.finish()
    step.reach(0.5)
    assert count.done == pytest.approx(2.5)


def test_a_line_every_interval_says_where_and_how_long(capfd):
    with Steps(terminal=False, interval=0.05) as steps:
        time.sleep(0.12)  # reading data: nothing is known yet
        steps.start(10, 2)
        steps.say("hard-seed0: training")
        steps.advance(0.5)
        time.sleep(0.12)
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("preparing\n")
    assert "hard-seed0: training · step 2.5 of 10 · 0:00:0" in err and err.endswith("left\n")


@pytest.mark.parametrize("show", [False, True])
def test_a_bar_on_a_terminal(capfd, show):
    with Steps(show=show, terminal=True) as steps:
        steps.start(10, 2)
        steps.say("training")
        time.sleep(0.6)
    captured = capfd.readouterr()
    assert captured.out == "" and ("training" in captured.err) == show


def test_a_short_job_off_a_terminal_is_silent(capfd):
    with Steps(terminal=False) as steps:
        steps.start(1, 0)
        steps.advance()
    assert capfd.readouterr() == ("", "")


def test_time_left():
    assert time_left(time.monotonic(), 0, 5) == "time left not known yet"
    assert time_left(time.monotonic() - 60, 1, 130) == "2:10:00 left"
