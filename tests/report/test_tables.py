import csv
import io
import math

import pytest

from regfast.report.results import Study
from regfast.report.tables import Estimate, Table, metrics_table, number, to_csv, to_latex, to_markdown, write

TABLE = Table(
    "t",
    "T",
    ["model_1 & co", "a|b"],
    [["50 % of #1", Estimate(-0.5, -0.6, 0.41)], ["x", Estimate(math.nan, math.nan, math.nan)]],
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.1234, "0.123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (-0.5, "−0.500"),
        (-0.0001, "0.000"),
        (math.nan, "–"),
    ],
)
def test_three_digits_and_a_true_minus(value, shown):
    assert number(value) == shown


def test_signed_numbers():
    assert (number(0.25, signed=True), number(-0.25, signed=True), number(0.0, signed=True)) == (
        "+0.250",
        "−0.250",
        "0.000",
    )


def test_latex_escapes_what_is_special():
    text = to_latex(TABLE)
    assert r"model\_1 \& co & a\textbar{}b \\" in text
    assert r"50 \% of \#1 & $-$0.500 [$-$0.600, 0.410] \\" in text
    assert text.count(r"\\") == 3
    assert text.startswith(r"\begin{tabular}{lr}") and text.rstrip().endswith(r"\end{tabular}")


def test_markdown_keeps_its_columns():
    lines = to_markdown(TABLE).splitlines()
    assert lines[1] == "| --- | ---: |"
    assert lines[0] == r"| model_1 & co | a\|b |"
    assert len(lines) == 4


def test_csv_has_full_precision_and_the_interval():
    rows = list(csv.reader(io.StringIO(to_csv(TABLE))))
    assert rows[0] == ["model_1 & co", "a|b mean", "a|b low", "a|b high"]
    assert [float(x) for x in rows[1][1:]] == [-0.5, -0.6, 0.41]
    assert all(len(row) == 4 for row in rows)


def test_every_metric_of_every_regularizer_is_in_the_table(run_dir, tmp_path):
    study = Study.read(run_dir)
    table = metrics_table(study)
    assert list(table.head) == ["", "Hard labels", "Label smoothing", "Mixup", "CutMix"]
    measured = study.metrics["regularizers"]
    assert len(table.rows) == len(measured["hard"])
    row = next(r for r in table.rows if r[0] == "Feature RMS")
    assert [c.mean for c in row[1:]] == [measured[n]["rms"]["mean"] for n in study.regularizers]
    write([table], tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".md", ".tex", ".csv"}
