"""The API pages hold every public name, with the members that it inherits."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md")]
NAMED = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
MODULES = [name for name in NAMED if len(set(name.split(".")[-2:])) > 1]  # the others: functions named like their file


@pytest.fixture(scope="module")
def anchors(tmp_path_factory):
    if shutil.which("mkdocs") is None and not (Path(sys.executable).parent / "mkdocs").is_file():
        pytest.skip("mkdocs is not installed")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = (site / "api").rglob("*.html")
    return {name for page in pages for name in re.findall(r'id="(regfast[\w.]*)"', page.read_text(encoding="utf-8"))}


@pytest.mark.slow
def test_every_public_name_has_an_anchor(anchors):
    missing = []
    for module in MODULES:
        for name in getattr(importlib.import_module(module), "__all__", []):
            found = {f"{module}.{name}", f"{module}.{name}.{name}"} & anchors
            missing += [] if found else [f"{module}.{name}"]
    assert not missing


@pytest.mark.slow
def test_inherited_members_are_there(anchors):
    assert {"regfast.attacks.PGD.run", "regfast.training.regularizers.MaxSup.batch"} <= anchors


def has_public_names(package: Path) -> bool:
    tree = ast.parse(package.read_text(encoding="utf-8"))
    assigned = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in assigned)


def test_every_package_with_public_names_has_a_page():
    packages = [path for path in (ROOT / "regfast").rglob("__init__.py") if has_public_names(path)]
    public = {".".join(path.relative_to(ROOT).parent.parts) for path in packages}
    inner = {"regfast", "regfast.ops", "regfast.runs", "regfast.paper.parts", "regfast.cli"}  # not for users
    assert public - inner <= set(MODULES)
