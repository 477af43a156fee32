import re
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


def shown(capfd, text):
    """What stands on standard error as soon as `text` does; a busy machine may take its time."""
    errors, limit = "", time.monotonic() + 60
    while text not in errors and time.monotonic() < limit:
        time.sleep(0.01)
        out, more = capfd.readouterr()
        assert out == ""
        errors += more
    return errors


def test_a_line_every_interval_says_where_and_how_long(capfd):
    with Steps(terminal=False, interval=0.05) as steps:
        assert shown(capfd, "\n").startswith("preparing\n")  # reading data: nothing is known yet
        steps.start(10, 2)
        steps.say("hard-seed0: training")
        steps.advance(0.5)
        lines = shown(capfd, "step 2.5 of 10")
    assert re.search(r"hard-seed0: training · step 2\.5 of 10 · \d+:\d\d:\d\d left\n", lines + capfd.readouterr().err)


@pytest.mark.parametrize("show", [False, True])
def test_a_bar_on_a_terminal(capfd, show):
    with Steps(show=show, terminal=True) as steps:
        steps.start(10, 2)
        steps.say("training")
        assert not show or "training" in shown(capfd, "training")
    assert show or capfd.readouterr() == ("", "")


def test_a_short_job_off_a_terminal_is_silent(capfd):
    with Steps(terminal=False) as steps:
        steps.start(1, 0)
        steps.advance()
    assert capfd.readouterr() == ("", "")


def test_time_left():
    assert time_left(time.monotonic(), 0, 5) == "time left not known yet"
    assert time_left(time.monotonic() - 60, 1, 130) == "2:10:00 left"
