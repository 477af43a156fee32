"""Figures, tables and the HTML page of a run, made from its result files alone."""

from __future__ import annotations

from pathlib import Path

from regfast.registry import load
from regfast.runs.errors import InputError, MissingExtra, MissingInput
from regfast.runs.files import read_json

__all__ = ["write_report"]

# Who writes the page of a kind of run; by name, since a paper run stands above this folder.
_KINDS = {
    "study": "regfast.report.write:write_study",
    "paper": "regfast.paper.page:write",
    "measure": "regfast.paper.page:write_measured",
    "evaluation": "regfast.report.write:write_evaluation",
}


def write_report(run_dir: str | Path) -> Path:
    """Make ``figures/``, ``tables/`` and ``report.html`` in ``run_dir`` from its result files; returns the page's path.

    Reads the result files of a study, a paper run or an evaluation (docs/reference/files.md) and nothing else;
    the same files give the same bytes. Needs matplotlib and jinja2: ``pip install regfast[report]``.

    Raises:
        MissingInput: a result file is missing.
        InputError: a result file is damaged, doesn't fit the schema or would lead out of `run_dir`.
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"the report needs {error.name}: pip install 'regfast[report]'") from error

    path = Path(run_dir)
    if not path.is_dir():
        raise MissingInput(
            f"run_dir: {path} is not a folder; expected one that `regfast study`, `paper` or `evaluate` has written"
        )
    if (path / "run.json").is_file():
        kind = "evaluation"
    else:
        kind = read_json(path / "config.json").get("kind", "study")
    if kind not in _KINDS:
        raise InputError(f"{path} holds a run of kind {kind!r}; there are {', '.join(_KINDS)}")
    written: Path = load(_KINDS[kind], "report")(path)
    return written
