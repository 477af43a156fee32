"""A claim that names a test must name one that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8"))


def test_many_claims_are_checked():
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_named_test_exists(file, name):
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
