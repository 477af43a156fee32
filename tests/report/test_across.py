"""`regfast compare` of studies, paper runs and measured networks: one table across runs."""

import csv
import io
import json

import pytest

from regfast.cli import run as command
from regfast.report.across import across, studies_of


@pytest.fixture
def measured(make_study, tmp_path):
    """Two made-up networks, as `regfast measure` writes them."""
    folder = make_study(tmp_path / "measured", seeds=1, samples=40, dataset="=photos & co")
    config = json.loads((folder / "config.json").read_text())
    config |= {"kind": "measure", "reference": "mixup"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "curves.parquet").unlink()
    return folder


def test_a_row_a_model_of_every_run(run_dir, paper_dir, measured, tmp_path, capsys):
    studies = [study for run in (run_dir, paper_dir, measured) for study in studies_of(run)]
    table = across(studies)
    assert len(studies) == 4 and len(table.rows) == 16
    assert table.rows[12][1] == "Mixup", "the reference comes first"
    names = list(dict.fromkeys(row[0] for row in table.rows))
    assert len(names) == 4 and run_dir.name in names[0], "runs of the same data and model are told apart"
    expected = studies[0].metrics["regularizers"]["hard"]["rms"]["mean"]
    assert table.rows[0][table.head.index("RMS")].mean == expected
    folders = [str(run_dir), str(measured)]
    assert command(["compare", *folders, "--format", "latex", "--out", str(tmp_path / "out")]) == 0
    assert r"=photos \& co, small-cnn & Mixup &" in capsys.readouterr().out
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".md", ".tex", ".csv"}
    rows = list(csv.reader(io.StringIO((tmp_path / "out" / "across.csv").read_text())))
    assert rows[5][0].startswith("'=photos") and len(rows) == 9


def test_what_cannot_be_compared_is_named(run_dir, tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert command(["compare", str(run_dir), str(tmp_path)]) == 2
    assert "evaluations are compared with evaluations alone" in capsys.readouterr().err
    assert command(["compare", str(run_dir), "--format", "html"]) == 2
    assert "markdown, latex, csv" in capsys.readouterr().err
