"""Figures, tables and the HTML page of a run, made from its result files alone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(run_dir: str | Path) -> Path:
    """Make ``figures/``, ``tables/`` and ``report.html`` in ``run_dir`` from its result files; returns the page's path.

    Reads the result files of a study or of a paper run (docs/design.md, "Result files of …") and nothing else;
    the same files give the same bytes. Needs matplotlib and jinja2: ``pip install regfast[report]``.

    Raises:
        FileNotFoundError: a result file is missing.
        ValueError: a result file is damaged or doesn't fit the schema.
        ImportError: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the report needs {error.name}: pip install 'regfast[report]'") from error
    from regfast.report.results import read_json
    from regfast.report.write import write_paper, write_study

    path = Path(run_dir)
    if not path.is_dir():
        raise FileNotFoundError(f"run_dir: {path} is not a folder; expected one that `regfast study` has written")
    return write_paper(path) if read_json(path / "config.json").get("kind") == "paper" else write_study(path)
