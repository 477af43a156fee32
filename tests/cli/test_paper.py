import json

import pytest

from regfast.cli import run

TINY = ["--size", "smoke", "--dataset", "digits", "--regularizer", "hard", "--epochs", "1", "--limit", "40"]


def one_line(capsys, *arguments):
    assert run(["paper", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("regfast: ") and captured.err.count("\n") == 1
    return captured.err


def test_help(capsys):
    assert run(["paper", "--help"]) == 0
    text = capsys.readouterr().out
    assert "every figure and table" in text and "--label" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "No such option"),
        (["--size", "huge"], "full, small, smoke"),
        (["--dataset", "cifar11"], "cifar11"),
        (["--dataset", "cifar10"], "--data-root"),
        (["--model", "small-cn"], "small-cnn"),
        (["--regularizer", "dropout"], "dropout"),
        (["--seeds", "a"], "--seeds"),
        (["--label", "-1"], "label"),
        (["--device", "abacus"], "--device abacus"),
    ],
)
def test_wrong_options_get_one_line(arguments, message, tmp_path, capsys):
    assert message in one_line(capsys, *arguments, "--out", str(tmp_path / "run"))


@pytest.mark.slow
def test_a_run_writes_its_files_and_is_not_repeated(tmp_path, capsys):
    out = ["--out", str(tmp_path), "--workers", "1", "--device", "cpu", "--no-report"]
    assert run(["paper", *TINY, *out]) == 0
    assert f"result files in {tmp_path}" in capsys.readouterr().out
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["studies"][0]["dataset"] == "digits" and config["planes"]["label"] == 3
    assert (tmp_path / "studies" / "digits-small-cnn" / "metrics.json").is_file()
    assert run(["paper", *TINY, *out]) == 0
    assert "already finished" in capsys.readouterr().out
    assert "planes.label: 3 there, 4 here" in one_line(capsys, *TINY, *out, "--label", "4")
