"""Run the fast tests of what differs from main: `python -m tools.check`, part of `make check`.

A changed test file runs; for a changed module the test file of its name, or where there is none its folder's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def changed(base: str = "main") -> list[Path]:
    """Files that differ from where this branch left `base`, committed or not, without those that are gone."""

    def git(*arguments: str) -> list[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
            "\n"
        )

    start = git("merge-base", base, "HEAD")[0]
    names = {*git("diff", "--name-only", start), *git("ls-files", "--others", "--exclude-standard")}
    return sorted(Path(name) for name in names if name and (ROOT / name).is_file())


def tests_of(path: Path) -> list[Path]:
    """The test files, or the folder of tests, that concern a file of the repository; none for what has none."""
    if path.parts[0] == "tests":
        return [path] if path.name.startswith("test_") else [path.parent] if len(path.parts) > 2 else []
    if path.parts[0] == "csrc":
        return [Path("tests/ops")]
    if path.parts[0] != "regfast":
        return [Path("tests/docs")] if path.suffix == ".md" else []
    inner = Path(*path.parts[1:])
    names = sorted(ROOT.glob(f"tests/**/test_{inner.stem}.py"))
    beside = [name.relative_to(ROOT) for name in names if name.parent.name in (*inner.parts[:-1], "tests")]
    folder = Path("tests", *inner.parts[:1])
    return beside or ([folder] if len(inner.parts) > 1 and (ROOT / folder).is_dir() else [])


def main() -> int:
    """Run them; the exit status is pytest's."""
    tests = sorted({str(test) for path in changed() for test in tests_of(path)})
    if not tests:
        print("no tests concern what differs from main")
        return 0
    print("tests:", *tests)
    command = [sys.executable, "-m", "pytest", "-m", "not slow and not exhaustive", "--numprocesses", "auto", *tests]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
