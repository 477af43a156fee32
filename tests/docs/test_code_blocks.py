"""Every code block in README and docs runs as it stands.

A page's Python blocks run in order in one fresh interpreter, in an empty folder: what a reader sees, and nothing else.
Shell blocks run their `regfast` and `python -m regfast` lines. A comment `<!-- not run: reason -->` right before a
block leaves it out: for what needs a GPU, a data set that cannot be shipped, or what CI runs elsewhere.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^\n]+ -->\n+)?```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^```",
    re.DOTALL | re.MULTILINE,
)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line, code) of the page's blocks in one language."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        written = {"py": "python", "bash": "sh"}.get(match["language"], match["language"])
        if written == language and not match["skip"]:
            found.append((line, match["code"]))
    return found


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "REGFAST_ROOT": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path):
    found = blocks(page, "python")
    if not found:
        pytest.skip("no Python on this page")
    # blank lines keep the line numbers of a traceback those of the page
    script, at = "", 1
    for line, code in found:
        script += "\n" * max(line - at, 0) + code
        at = max(line, at) + code.count("\n")
    path = tmp_path / f"{page.stem}.py"
    path.write_text(script, encoding="utf-8")
    done = run([sys.executable, str(path)], tmp_path)
    assert done.returncode == 0, f"{page.name}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_shell_blocks_run(page, tmp_path):
    lines = [
        line
        for _, code in blocks(page, "sh")
        for line in code.replace("\\\n", " ").splitlines()
        if line.startswith(("regfast ", "python -m regfast"))
    ]
    if not lines:
        pytest.skip("no regfast commands on this page")
    for line in lines:
        words = shlex.split(line, comments=True)
        arguments = words[1:] if words[0] == "regfast" else words[3:]
        done = run([sys.executable, "-m", "regfast", *arguments], tmp_path)
        assert done.returncode == 0, f"{page.name}: {line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
