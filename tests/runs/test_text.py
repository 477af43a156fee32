import csv
import io

import pytest

from regfast.report.drawing import to_csv
from regfast.report.tables import Table, to_markdown
from regfast.report.tables import to_csv as table_csv
from regfast.runs.text import markdown, spreadsheet

FORMULA = '=HYPERLINK("http://example.org")'


@pytest.mark.parametrize("text", [FORMULA, "+1+2", "-2+3", "@SUM(A1)", "\t=1", "-inf-"])
def test_formulas_are_texts(text):
    assert spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("cell", ["-0.5", "+3e-4", "-inf", "hard", "", -0.5, 3])
def test_numbers_and_names_stay(cell):
    assert spreadsheet(cell) == cell


def test_both_csv_writers_escape_cells_and_heads():
    for text in (
        to_csv({FORMULA: [FORMULA], "x": [-0.25]}),
        table_csv(Table("t", "t", [FORMULA, "x"], [[FORMULA, -0.25]])),
    ):
        assert list(csv.reader(io.StringIO(text))) == [[f"'{FORMULA}", "x"], [f"'{FORMULA}", "-0.25"]]


def test_markdown_of_a_name():
    assert markdown("a|b\n<script>`x`") == r"a\|b &lt;script>\`x\`"
    assert markdown("[0.1, 0.2]") == "[0.1, 0.2]" and markdown("[x](javascript:1)") == r"[x]\(javascript:1)"
    assert "<img" not in to_markdown(Table("t", "t", ["<img src=x>", "y"], [["<img src=x>", 1.0]]))
