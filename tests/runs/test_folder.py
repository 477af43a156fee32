import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from regfast.runs import InputError, OtherRun, RunStopped
from regfast.runs.folder import alone, check_kind, check_same, differences, inside


def test_one_job_at_a_time_and_nothing_stays(tmp_path):
    lock = tmp_path / "run" / ".lock"
    with alone(lock):
        with pytest.raises(RunStopped, match="another job is writing to"), alone(lock):
            pass
        assert lock.exists()
    assert not list(lock.parent.iterdir())
    with alone(lock):
        pass


def test_a_killed_jobs_lock_holds_nobody_up(tmp_path):
    code = "import os, sys, pathlib; from regfast.runs.folder import alone\n"
    code += "with alone(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], cwd=os.getcwd(), timeout=60)
    assert (tmp_path / ".lock").exists()
    with alone(tmp_path / ".lock"):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(RunStopped, match="cannot be written"), alone(tmp_path / ".lock"):
        pass
    assert not (tmp_path / "made").exists()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    with pytest.warns(UserWarning, match="no file locks"), alone(tmp_path / ".lock"):
        pass


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("run.json", {}, "evaluation"), ("config.json", {}, "study"), ("config.json", {"kind": "paper"}, "paper")],
)
def test_kinds(tmp_path, name, content, kind):
    (tmp_path / name).write_text(json.dumps(content))
    check_kind(tmp_path, kind)
    for other in {"evaluation", "study", "paper"} - {kind}:
        with pytest.raises(OtherRun, match=rf"another kind \({kind}, not {other}\)"):
            check_kind(tmp_path, other)


def test_differences_name_what_has_an_id_by_it():
    old = {"attacks": [{"id": "a", "eps": 1}, {"id": "b", "eps": 2}], "seeds": [0, 1]}
    new = {"attacks": [{"id": "a", "eps": 1}, {"id": "b", "eps": 3}], "seeds": [0]}
    assert differences(old, new) == ["attacks.b.eps: 2 there, 3 here", "seeds: [0, 1] there, [0] here"]
    with pytest.raises(OtherRun, match=r"runs/a holds.*attacks\.b\.eps"):
        check_same(old, new, "runs/a")


def test_nothing_leads_out_of_a_folder(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "figures").symlink_to(tmp_path)
    assert inside(run, "studies/a") == run / "studies" / "a"
    for name in ("../other", "/etc", "figures", "figures/a.svg", "studies/../../other"):
        with pytest.raises(InputError, match="leads out of"):
            inside(run, name)
