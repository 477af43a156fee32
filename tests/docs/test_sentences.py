"""Sentences that a stranger understands at first sight: short ones."""

import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LONGEST, MEDIAN = 40, 15


ABBREVIATED = re.compile(r"\b(Fig|al|cf|vs|eq|Eq|e\.g|i\.e|no)\.$")


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose: no code, tables, headings, formulas, link targets and names of tests."""
    text = re.sub(r"<!--.*?-->|^(```|~~~).*?^\1|\$\$.*?\$\$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in text.splitlines() if not re.match(r"\s*(\||#|!\[|:::|    )", line)]
    text = "\n".join("\n\n" + line if re.match(r"\s*([-*]|\d+\.) ", line) else line for line in lines)
    text = re.sub(r"\(?`tests/[^`]*`[,)]?|\*\*", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|`[^`]*`", lambda found: found[1] or "code", text)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        part = ""
        for piece in re.split(r"(?<=[.:?!])\s+", " ".join(paragraph.split())):
            part = f"{part} {piece}".strip()
            if not ABBREVIATED.search(part):
                found.append(part)
                part = ""
    return [sentence for sentence in found if len(sentence.split()) > 2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_is_long(page):
    long = [s for s in sentences(page.read_text(encoding="utf-8")) if len(s.split()) > LONGEST]
    assert not long, f"{len(long)} sentences of more than {LONGEST} words, such as: {long[0]}"


def test_most_are_short():
    lengths = [len(s.split()) for page in PAGES for s in sentences(page.read_text(encoding="utf-8"))]
    assert statistics.median(lengths) <= MEDIAN


def test_it_sees_a_long_sentence():
    assert [len(s.split()) for s in sentences("# A head\n\n" + "word " * 41 + "end. Short one here.")] == [42, 3]
    assert sentences("```sh\n" + "word " * 50 + "\n```\n\n| a | table |\n") == []
