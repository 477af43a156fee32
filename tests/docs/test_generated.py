"""The tables that the code knows stand in the docs as the code has them."""

import pytest

from tools.generate_docs import MARKED, PAGES, ROOT, generated

TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if "<!-- generated" in text])
def test_tables_are_up_to_date(page):
    assert generated(TEXTS[page]) == TEXTS[page], f"{page}: run python tools/generate_docs.py"


def test_every_mark_is_closed():
    for page, text in TEXTS.items():
        assert len(MARKED.findall(text)) == text.count("<!-- generated: "), page


def test_a_table_follows_the_code():
    old = "<!-- generated: paper-parts -->\nstale\n<!-- end -->"
    assert "planes.parquet" in generated(old) and "stale" not in generated(old)
