"""Writing everything a report consists of: figures, tables, and the page last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from regfast.report.claims import verdicts
from regfast.report.feature_attack import feature_verdicts
from regfast.report.page import Page, render
from regfast.report.paper_page import across, paper_page
from regfast.report.paper_results import Paper
from regfast.report.results import Study
from regfast.report.study_figures import drawings
from regfast.report.study_page import study_name, study_page
from regfast.report.style import save
from regfast.report.tables import metrics_table, verdict_table, write


def write_study(run_dir: Path) -> Path:
    """Figures, tables and page of a study; returns the page's path."""
    study = Study.read(run_dir)
    answers = verdicts(study)
    write([metrics_table(study), verdict_table(answers)], study.path / "tables")
    return write_page(study.path, study_page(study, drawings(study), answers), study.regularizers)


def write_paper(run_dir: Path) -> Path:
    """Figures, tables and page of a paper run, and of each of its studies; returns the path of the run's own page."""
    paper = Paper.read(run_dir)
    answers, drawn = {}, {}
    for study in paper.studies:
        found = answers[study.path.name] = verdicts(study)
        drawn[study.path.name] = drawings(study)
        write([metrics_table(study), verdict_table(found)], study.path / "tables")
        write_page(study.path, study_page(study, drawn[study.path.name], found), study.regularizers)
        write([verdict_table(found, f"verdicts-{study.path.name}", study_name(study))], paper.path / "tables")
    features = feature_verdicts(paper)
    beyond = [verdict_table(features, "verdicts-features", "Attacks on features")] if features else []
    write([across(paper.studies), metrics_table(paper.main), *beyond], paper.path / "tables")
    names = list(dict.fromkeys(name for study in paper.studies for name in study.regularizers))
    return write_page(paper.path, paper_page(paper, answers, drawn, features), names)


def write_page(folder: Path, page: Page, regularizers: Sequence[str]) -> Path:
    """The page's figures under ``figures/``, then ``report.html``; a reader never meets half a page."""
    for section in page.sections:
        for drawing in section.drawings:
            if drawing.svg is None:
                save(drawing.figure, folder / "figures", drawing.name)
    text = render(page, folder / "figures", regularizers)
    partial, path = folder / "report.html.part", folder / "report.html"
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path
