"""Writing everything a report consists of: figures, tables, and the page last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regfast.report.claims import Verdict, verdicts
from regfast.report.drawing import Drawing
from regfast.report.evaluation_page import evaluation_page
from regfast.report.page import Page, render
from regfast.report.results import Study
from regfast.report.study_figures import drawings, glance_figure
from regfast.report.study_page import study_page
from regfast.report.style import save
from regfast.report.tables import metrics_table, verdict_table, write
from regfast.runs.files import write_text
from regfast.runs.folder import inside


def write_study(run_dir: Path) -> Path:
    """Figures, tables and page of a study; returns the page's path."""
    study = Study.read(run_dir)
    answers = verdicts(study)
    return write_study_page(study, drawings(study), answers)


def study_drawings(run_dir: Path) -> list[Drawing]:
    """Every figure of a study's page."""
    study = Study.read(run_dir)
    return [glance_figure(study), *drawings(study)]


def evaluation_drawings(run_dir: Path) -> list[Drawing]:
    """Every figure of an evaluation's page."""
    return evaluation_page(run_dir).drawings


def write_evaluation(run_dir: Path) -> Path:
    """Figures and page of an evaluation; returns the page's path."""
    page = evaluation_page(run_dir)
    write([table for section in page.sections for table in section.tables], run_dir / "tables")
    return write_page(run_dir, page, ())


def write_study_page(study: Study, drawn: Sequence[Drawing], answers: Sequence[Verdict]) -> Path:
    """Tables and page of a study whose figures and verdicts are at hand; returns the page's path."""
    write([metrics_table(study), verdict_table(answers)], inside(study.path, "tables"))
    return write_page(study.path, study_page(study, drawn, answers), study.regularizers)


def write_page(folder: Path, page: Page, regularizers: Sequence[str]) -> Path:
    """The page's figures under ``figures/``, then ``report.html``; a reader never meets half a page."""
    for drawing in page.drawings:
        if drawing.svg is None:
            save(drawing.figure, inside(folder, "figures"), drawing.name)
    path = folder / "report.html"
    write_text(path, render(page, folder / "figures", regularizers))
    return path
