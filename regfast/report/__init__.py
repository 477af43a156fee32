"""Figures, tables and the HTML page of a run, made from its result files alone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(run_dir: str | Path) -> Path:
    """Make ``figures/``, ``tables/`` and ``report.html`` in ``run_dir`` from its result files; returns the page's path.

    Reads config.json, metrics.json and the Parquet files (docs/design.md, "Result files of a study") and nothing else;
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
    from regfast.report.claims import verdicts
    from regfast.report.page import render
    from regfast.report.results import Study
    from regfast.report.study_figures import drawings
    from regfast.report.study_page import study_page
    from regfast.report.style import save
    from regfast.report.tables import metrics_table, verdict_table, write

    study = Study.read(run_dir)
    found, answers = drawings(study), verdicts(study)
    for drawing in found:
        save(drawing.figure, study.path / "figures", drawing.name)
    for table in (metrics_table(study), verdict_table(answers)):
        write(table, study.path / "tables")
    page = study.path / "report.html"
    text = render(study_page(study, found, answers), study.path / "figures", study.regularizers)
    partial = page.with_suffix(".html.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(page)  # a reader never meets half a page
    return page
