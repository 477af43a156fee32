import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from regfast import __version__
from regfast.attacks.registry import ATTACKS
from regfast.cli import run
from regfast.cli._attacks import attack_names
from regfast.cli._console import table_text
from regfast.cli._options import number, numbers
from regfast.models import load_model, save_checkpoint
from tests.runs.kills import TORCHRUN, litter

ROOT = Path(__file__).parents[2]
TINY = ["--size", "smoke", "--regularizer", "hard", "--regularizer", "mixup", "--epochs", "1", "--limit", "40"]


def one_line(capsys, *arguments):
    """The only line that wrong input gets, with exit status 2."""
    assert run(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("regfast: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("command", ["study", "train", "attack", "report", "show-config"])
def test_help(command, capsys):
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage" in text and len(text) > 200


def test_help_names_every_option_in_a_narrow_terminal():
    environment = {**os.environ, "COLUMNS": "20"}
    command = [sys.executable, "-m", "regfast", "attack", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    for name in ("--interpolation", "--checkpoint", "--attack <list[str]>", "autoattack:version=fast"):
        assert name in done.stdout, name


def test_version_and_no_command(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"regfast {__version__}\n"
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "Usage" in captured.out and captured.err == ""


def test_help_is_short_of_torch():
    words = [["--help"], ["study", "--help"], ["evaluate", "--help"], ["train", "--help"], ["--version"]]
    code = f"import sys, regfast.cli as cli; [cli.run(each) for each in {words}]; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ("study", "train", "attack", "report", "show-config"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--bogus"], "No such option"),
        (["nothing"], "No such command"),
        (["study", "--epochs", "many"], "epochs"),
        (["study", "--size", "huge"], "full, small, smoke"),
        (["study", "--dataset", "cifar11"], "cifar11"),
        (["study", "--dataset", "cifar10"], "--data-root"),
        (["study", "--regularizer", "hard", "--regularizer", "hard"], "two regularizers are called hard"),
        (["study", "--regularizer", "dropout"], "dropout"),
        (["study", "--regularizer", "smoothing:smoothing=2"], "smoothing must be a number in"),
        (["study", "--seeds", "a"], "--seeds"),
        (["study", "--eps-linf", "0.1"], "WEAK,STRONG"),
        (["study", "--eps-l2", "0.1,x"], "8/255"),
        (["study", "--eps-linf", "4/255,1/255"], "the smaller first"),
        (["study", "--eps-linf", "4,8"], "do you mean 8/255?"),
        (["study", "--attack", "nothing"], "no attack is called 'nothing'"),
        (["study", "--attack", "apgd:eps=0.1"], "leave it out"),
        (["study", "--attack", "pgd:norm=l1"], "not for l1"),
        (["study", "--size", "smoke", "--device", "abacus"], "--device abacus"),
        (["study", "--size", "smoke", "--parallel", "no"], "parallel must be auto, units or ddp"),
        (["study", "--epochs", "0"], "epochs must be at least 1"),
        (["train", "--out", "x.safetensors", "--regularizer", "hard:alpha=1"], "hard takes no alpha"),
        (["train", "--out", "x.safetensors", "--recipe", "cifar11"], "no recipe is called 'cifar11'"),
        (["train", "--out", "x.safetensors", "--precision", "int8"], "precision must be one of float32, bf16, fp16"),
        (["train", "--out", "x.safetensors", "--adversary", "pgd:keep=first"], "keep must be"),
        (["train", "--out", "x.safetensors", "--adversary", "square"], "gradient steps"),
        (["train", "--out", "x.safetensors", "--adversary", "pgd:stepz=3"], "pgd takes no stepz"),
        (["train"], "--out"),
        (["attack", "--model", "resnet21"], "did you mean"),
        (["attack", "--model", "small-cnn", "--attack", "nothing"], "there are"),
        (["attack", "--model", "small-cnn", "--attack", "fgsm", "--steps", "3"], "takes no steps"),
        (["attack", "--model", "small-cnn", "--eps", "8/0"], "8/0"),
        (["attack", "--model", "small-cnn", "--eps", "8"], "do you mean 8/255?"),
        (["attack", "--model", "small-cnn", "--attack", "pgd:eps=8"], "do you mean 8/255?"),
        (["attack", "--model", "small-cnn", "--attack", "ddn", "--norm", "linf"], "ddn knows l2 alone"),
        (["attack", "--model", "small-cnn", "--seed", str(2**64)], "--seed"),
        (["attack", "--model", "small-cnn", "--resize", "64"], "--resize is for --dataset imagefolder"),
        (["evaluate", "--model", "small-cnn", "--out", "x", "--device", "xyz"], "--device xyz"),
        (["attack", "--model", "small-cnn", "--checkpoint", "none.pt"], "no checkpoint at none.pt"),
        (["report", "runs/none"], "none"),
    ],
)
def test_wrong_input_gets_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in one_line(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_our_own_bugs_keep_their_traceback(monkeypatch, capsys):
    monkeypatch.setattr("regfast.show_config", lambda: int("a bug"))
    assert run(["show-config"]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" in errors and "a bug" in errors


def test_traceback_shows_where_wrong_input_was_refused(capsys):
    assert run(["--traceback", "study", "--size", "huge"]) == 2
    errors = capsys.readouterr().err
    assert "Traceback" in errors and "in sized" in errors and "regfast: size must be one of" in errors


def test_what_the_page_needs_is_asked_for_first(tmp_path):
    """In a process of its own: here matplotlib is imported."""
    out = tmp_path / "run"
    commands = [
        ["study", "--size", "smoke"], ["paper", "--size", "smoke"],
        ["measure", "--network", "a=small-cnn", "--dataset", "digits"],
        ["evaluate", "--model", "small-cnn", "--dataset", "digits"],
    ]  # fmt: skip
    code = "import sys; sys.modules['matplotlib'] = None; import regfast.cli as cli; "
    code += f"[print(cli.run([*each, '--out', {str(out)!r}])) for each in {commands}]; "
    code += f"print(cli.run(['plot', {str(tmp_path)!r}]), cli.run(['compare', 'a', 'b', '--out', {str(out)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"] * 6
    assert done.stderr == "regfast: the report needs matplotlib: pip install 'regfast[report]'\n" * 6
    assert not out.exists()


@pytest.mark.slow
def test_two_ranks_refuse_a_wrong_option_once():
    command = [sys.executable, "-m", *TORCHRUN, "regfast", "attack", "--norm", "l7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stderr.count("regfast: ") == 1, done.stderr


def test_another_rank_alone_says_what_is_wrong(monkeypatch, capsys):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        for arguments in (["attack", "--wrong"], ["report", "no such folder"]):
            assert one_line(capsys, *arguments)
    assert len(slept) == 2 and min(slept) >= 5


def test_show_config(capsys):
    assert run(["show-config"]) == 0
    assert f"torch {torch.__version__}" in capsys.readouterr().out


def test_study_its_second_run_and_its_page(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "run"
    study = ["study", *TINY, "--workers", "1", "--out", str(folder)]
    assert run([*study, "--no-report"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith(f"finished: result files in {folder}\n") and "regfast: " not in captured.err
    assert [line.split()[0] for line in captured.out.splitlines()[:3]] == ["regularizer", "hard", "mixup"]
    config = json.loads((folder / "config.json").read_text())
    assert list(config["regularizers"]) == ["hard", "mixup"] and config["recipe"]["epochs"] == 1
    before = (folder / "metrics.json").stat().st_mtime_ns
    assert run([*study, "--no-report"]) == 0
    assert "already finished" in capsys.readouterr().out
    assert "limit: 40 there, 41 here" in one_line(capsys, *[word.replace("40", "41") for word in study])
    page = folder / "report.html"
    assert run(study) == 0
    assert capsys.readouterr().out.endswith(f"\npage: {page}\n")
    assert run(study) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (folder / "metrics.json").stat().st_mtime_ns == before
    content = page.read_bytes()
    page.unlink()
    assert run(["report", str(folder)]) == 0
    assert page.read_bytes() == content


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path):
    # Three models on two workers: when the first is trained, seconds of work are left.
    study = ["study", *TINY, "--regularizer", "smoothing", "--no-report", "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # A shell's background jobs, and what they start, ignore interrupts.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "regfast", *study]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    signal.signal(signal.SIGINT, handler)
    checkpoints = tmp_path / "run" / "checkpoints"
    deadline = time.monotonic() + 120
    while not (kept := list(checkpoints.glob("*-seed0.safetensors"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on where it stopped" in errors and "Traceback" not in errors
    written = kept[0].stat().st_mtime_ns
    assert not litter(tmp_path)
    assert run([*study, "--workers", "1"]) == 0
    assert kept[0].stat().st_mtime_ns == written
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_train_then_attack(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "model.safetensors"
    adversary = ["--adversary", "fgsm:eps=8/255,random_start=true,mode=train"]
    assert run(["train", "--out", str(checkpoint), "--dataset", "digits", "--epochs", "2", *adversary]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "model.json").read_text())["epochs"]) == 2
    options = ["--dataset", "digits", "--limit", "30", "--steps", "3", "--eps", "0.01,0.3"]
    assert run(["attack", "--model", "small-cnn", "--checkpoint", str(checkpoint), *options]) == 0
    table = capsys.readouterr().out
    assert "0.01" in table and "0.3" in table and "robust" in table and "30 of 448 images" in table
    (written,) = (tmp_path / "runs" / "attacks").iterdir()
    found = json.loads(written.read_text())
    assert [row["eps"] for row in found["attacks"]] == [0.01, 0.3] and len(found["samples"]["sample"]) == 30
    assert "UNTRAINED" not in table


def test_attack_finds_what_evaluate_finds(tmp_path, capsys):
    options = ["--model", "small-cnn", "--dataset", "digits", "--limit", "20", "--seed", "3", "--attack", "PGD:steps=3"]
    assert run(["attack", *options, "--out", str(tmp_path / "attack.json")]) == 0
    table = capsys.readouterr().out
    assert "UNTRAINED" in table and "8/255" in table
    assert run(["evaluate", *options, "--out", str(tmp_path / "run")]) == 0
    assert "small-cnn (untrained)" in capsys.readouterr().out
    attack = json.loads((tmp_path / "attack.json").read_text())
    evaluated = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert attack["clean"] == evaluated["clean"]
    for name in ("eps", "robust_accuracy", "attack_success_rate", "gradients"):
        assert attack["attacks"][0][name] == evaluated["attacks"][0][name], name


def test_one_search_for_the_nearest_answers_for_every_eps(tmp_path, monkeypatch):
    (tmp_path / "linear_model.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ["--model", "linear_model:make", "--dataset", "digits", "--attack", "fmn:eps=none,steps=20"]
    assert run(["attack", *options, "--eps", "0.05,0.2,1", "--out", str(tmp_path / "a.json")]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["attacks"]
    values = [row["robust_accuracy"]["value"] for row in rows]
    assert [row["eps"] for row in rows] == [0.05, 0.2, 1] and values == sorted(values, reverse=True)
    assert values[0] > values[-1] and len({row["seconds"] for row in rows}) == 1


def test_an_attack_of_the_users_own(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_attack.py").write_text("from regfast.attacks import PGD\n\nclass Mine(PGD):\n    name = 'mine'\n")
    monkeypatch.chdir(tmp_path)
    options = ["--model", "small-cnn", "--dataset", "digits", "--limit", "8", "--attack", "mine_attack:Mine:steps=2"]
    for command in ("attack", "evaluate"):
        assert run([command, *options, "--out", command]) == 0
        assert "mine" in capsys.readouterr().out


def test_attack_on_data_with_more_classes(tmp_path, capsys):
    checkpoint = tmp_path / "three.safetensors"
    save_checkpoint(load_model("small-cnn", num_classes=3, seed=0).network_state(), checkpoint)
    assert "3 classes" in one_line(capsys, "attack", "--model", "small-cnn", "--checkpoint", str(checkpoint))


def test_attack_says_before_the_work_that_its_file_cannot_be_written(tmp_path, capsys):
    said = one_line(
        capsys, "attack", "--model", "small-cnn", "--dataset", "digits", "--limit", "4", "--out", str(tmp_path)
    )
    assert str(tmp_path) in said


def test_a_warning_is_one_line():
    code = "import warnings; from regfast import cli; cli.run = lambda _: warnings.warn('in train mode'); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "regfast: warning: in train mode\n"


def test_tables_fit_or_fold_and_lose_nothing():
    lines = ["| attack | eps |", "|---|---|", "| pgd | 8/255 |", "| square | 0.5 |"]
    assert table_text(lines).splitlines() == ["attack    eps", "pgd     8/255", "square    0.5"]
    assert table_text(lines, 12).splitlines()[1] == "pgd    8/255"
    assert table_text(lines, 11).splitlines() == ["attack: pgd", "eps: 8/255", "", "attack: square", "eps: 0.5"]


def test_help_names_every_attack(capsys):
    for command in ("attack", "evaluate"):
        assert run([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(name in text for name in ATTACKS.names())
    assert attack_names() == ATTACKS.names()


def test_numbers():
    assert number("8/255", "--eps") == 8 / 255
    assert numbers("1, 2/4,3e-2", "--eps") == [1, 0.5, 0.03]


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.exhaustive)])
def test_a_plain_terminal_of_twenty_columns_and_paths_with_brackets(tmp_path, encoding):
    out = tmp_path / "[bold]run" / "a.json"
    command = [sys.executable, "-m", "regfast", "attack", "--model", "small-cnn", "--dataset", "digits", "--limit", "4"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "20", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--steps", "1", "--eps", "0.01", "--out", str(out)], cwd=ROOT, env=environment, capture_output=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(out).encode() in done.stdout.replace(b"\n", b"") and out.is_file()
