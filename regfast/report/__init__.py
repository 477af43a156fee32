"""Figures, tables and the HTML page of a run, made from its result files alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from regfast.registry import load
from regfast.runs.errors import InputError, MissingExtra, MissingInput
from regfast.runs.files import read_json

if TYPE_CHECKING:
    from regfast.report.drawing import Drawing

__all__ = ["figures_of", "kind_of", "need_extra", "write_report"]


class _Kind(NamedTuple):
    """What makes the page of a kind of run, and its figures; by name, since some stand above this folder."""

    write: str
    drawings: str


_KINDS = {
    "study": _Kind("regfast.report.write:write_study", "regfast.report.write:study_drawings"),
    "paper": _Kind("regfast.paper.page:write", "regfast.paper.page:drawings_of"),
    "measure": _Kind("regfast.paper.page:write_measured", "regfast.paper.page:measured_drawings"),
    "evaluation": _Kind("regfast.report.write:write_evaluation", "regfast.report.write:evaluation_drawings"),
}


def write_report(run_dir: str | Path) -> Path:
    """Make ``figures/``, ``tables/`` and ``report.html`` in ``run_dir`` from its result files; returns the page's path.

    Reads the result files of a study, a paper run, measured networks or an evaluation (docs/reference/files.md) and
    nothing else; the same files give the same bytes. Needs matplotlib and jinja2: ``pip install regfast[report]``.

    Raises:
        MissingInput: a result file is missing.
        InputError: a result file is damaged, doesn't fit the schema or would lead out of `run_dir`.
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    kind = _KINDS[kind_of(run_dir)]
    need_extra()
    written: Path = load(kind.write, "report")(Path(run_dir))
    return written


def figures_of(run_dir: str | Path) -> list[Drawing]:
    """Every figure of the page of ``run_dir``, in its order. Raises as `write_report`."""
    kind = _KINDS[kind_of(run_dir)]
    need_extra()
    drawn: list[Drawing] = load(kind.drawings, "report")(Path(run_dir))
    return drawn


def kind_of(run_dir: str | Path) -> str:
    """What kind of run ``run_dir`` holds. MissingInput, InputError where it holds none, or one of no known kind."""
    path = Path(run_dir)
    if not path.is_dir():
        raise MissingInput(
            f"run_dir: {path} is not a folder; expected one that `regfast study`, `paper` or `evaluate` has written"
        )
    if (path / "run.json").is_file():
        return "evaluation"
    kind = str(read_json(path / "config.json").get("kind", "study"))
    if kind not in _KINDS:
        raise InputError(f"{path} holds a run of kind {kind!r}; there are {', '.join(_KINDS)}")
    return kind


def need_extra() -> None:
    """MissingExtra, which says how to get it, where matplotlib or jinja2 is not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"the report needs {error.name}: pip install 'regfast[report]'") from error
