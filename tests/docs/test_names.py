"""Paths and names in back-ticks on README's, CONTRIBUTING's and the docs' pages are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# In the repository: not what a run writes, nor a reader's own.
PATH = re.compile(r"(?:regfast|csrc|tests|docs|benchmarks(?!/results/)|tools|examples|\.ci)/[\w./-]*[\w/]")
NAME = re.compile(r"regfast(?:\.\w+)+")


def quoted(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text)


def found(name: str) -> bool:
    """Whether `regfast.a.b.c` is a module, or an attribute of what comes before."""
    place = importlib.import_module("regfast")
    for i, part in enumerate(parts := name.split(".")[1:]):
        try:
            place = getattr(place, part)
        except AttributeError:
            try:
                place = importlib.import_module(".".join(("regfast", *parts[: i + 1])))
            except ModuleNotFoundError:
                return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_named_is_there(page):
    texts = quoted(page)
    missing = [text for text in texts if PATH.fullmatch(text) and not (ROOT / text).exists()]
    missing += [text for text in texts if (name := NAME.match(text)) and "/" not in text and not found(name[0])]
    assert not missing


# US spelling, as in PyTorch. Stems, so that they are found inside names too.
BRITISH = re.compile(
    r"(?:col|neighb|behavi|fav|hon)our|centre[ds]?(?![a-z])|grey(?![a-z])|labelled|"
    r"(?:general|initial|linear|material|maxim|minim|normal|optim|penal|quant|random|regular|serial|special|standard"
    r"|summar|util|vector|visual)is(?:e|ing|ation|able)",
    re.IGNORECASE,
)


def test_spelling_is_us():
    files = [
        path
        for folder in ("regfast", "csrc", "tests", "docs", "benchmarks", "tools", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".j2", ".cpp", ".h", ".cu", ".cuh", ".sh") and path != Path(__file__)
    ]
    assert len(files) > 400
    lines = ((path, line) for path in files for line in path.read_text(encoding="utf-8").splitlines())
    assert [f"{path.relative_to(ROOT)}: {line.strip()}" for path, line in lines if BRITISH.search(line)] == []
