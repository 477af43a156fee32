"""The page of a paper run: what it says, and writing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from regfast.paper.parts import PARTS, SCHEMAS
from regfast.paper.results import Paper
from regfast.report.across import across
from regfast.report.claims import Verdict
from regfast.report.claims import verdicts as study_verdicts
from regfast.report.drawing import Drawing
from regfast.report.page import Page, Section, VerdictGroup, verdict_cards
from regfast.report.results import Columns, Study, read_columns
from regfast.report.study_figures import drawings, glance_figure
from regfast.report.study_page import (
    chance_note,
    environment,
    facts,
    notice,
    settings,
    study_name,
    study_page,
    what_ran,
    words,
)
from regfast.report.tables import Table, metrics_table, verdict_table
from regfast.report.tables import write as write_tables
from regfast.report.write import write_page, write_study_page
from regfast.runs.folder import inside


def write(run_dir: Path) -> Path:
    """Figures, tables and page of a paper run, and of each of its studies; returns the path of the run's own page."""
    paper = Paper.read(run_dir, SCHEMAS)
    answers, drawn = {}, {}
    tables = inside(paper.path, "tables")
    for study in paper.studies:
        found = answers[study.path.name] = study_verdicts(study)
        drawn[study.path.name] = drawings(study)
        write_study_page(study, drawn[study.path.name], found)
        write_tables(
            [verdict_table(found, f"verdicts-{study.path.name}", study_name(study))], inside(paper.path, "tables")
        )
    features = [verdict for part in PARTS for verdict in part.verdicts(paper)]
    beyond = [verdict_table(features, "verdicts-features", "Attacks on features")] if features else []
    write_tables([across(paper.studies), metrics_table(paper.main), *beyond], tables)
    names = list(dict.fromkeys(name for study in paper.studies for name in study.regularizers))
    return write_page(paper.path, paper_page(paper, answers, drawn, features), names)


def drawings_of(run_dir: Path) -> list[Drawing]:
    """Every figure of the page of a paper run."""
    paper = Paper.read(run_dir, SCHEMAS)
    drawn = {study.path.name: drawings(study) for study in paper.studies}
    return [glance_figure(paper.main), *(d for section in sections(paper, drawn) for d in section.drawings)]


def write_measured(run_dir: Path) -> Path:
    """Figures, tables and page of a measurement; returns the page's path."""
    study, paper = _measured(run_dir)
    answers = study_verdicts(study)
    features = [verdict for part in PARTS for verdict in part.verdicts(paper)]
    beyond = [verdict_table(features, "verdicts-features", "Attacks on features")] if features else []
    write_tables([metrics_table(study), verdict_table(answers), *beyond], inside(study.path, "tables"))
    extra = [VerdictGroup("Beyond the paper", features, study.regularizers)] * bool(features)
    page = _measured_page(study, paper, answers)
    return write_page(study.path, replace(page, verdicts=[*page.verdicts, *extra]), study.regularizers)


def measured_drawings(run_dir: Path) -> list[Drawing]:
    """Every figure of the page of a measurement."""
    return _measured_page(*_measured(run_dir), []).drawings


def _measured(run_dir: Path) -> tuple[Study, Paper]:
    study = Study.read(run_dir)
    found: dict[str, Columns] = {
        name: read_columns(run_dir / f"{name}.parquet", columns)
        for name, columns in SCHEMAS.items()
        if (run_dir / f"{name}.parquet").is_file()
    }
    return study, Paper(study.path, study.config, [study], found)


def _measured_page(study: Study, paper: Paper, answers: Sequence[Verdict]) -> Page:
    page = study_page(study, drawings(study), answers)
    figures, *rest = page.sections
    beside = [s for s in sections(paper, {study.path.name: []}) if s.drawings]
    return replace(page, sections=[figures, *beside, *rest])


def paper_page(
    paper: Paper,
    verdicts: Mapping[str, Sequence[Verdict]],
    drawn: Mapping[str, Sequence[Drawing]],
    features: Sequence[Verdict] = (),
) -> Page:
    """The page of ``paper``: verdicts per study, the paper's figures, then what goes beyond them.

    ``verdicts`` and ``drawn`` hold what the studies' own pages show, by the studies' folder names; ``features`` are
    those on attacks on the features, which are not the paper's claims and not counted among them.
    """
    names = [study_name(study) for study in paper.studies]
    lead = (
        "Park, Kim and Lee report that soft labels pull features toward the origin and toward their class centers, and "
        f"so calibrate and protect a classifier. The paper's figures and tables, made again. {what_ran(paper.main)}"
    )
    main = paper.main
    return Page(
        title="Soft labels in the representation space: the paper's figures and tables",
        notice=notice(main, str(paper.config.get("command", ""))),
        lead=lead,
        facts=[*([("Studies", "; ".join(names))] if len(names) > 1 else []), *facts(main)],
        cards=verdict_cards(verdicts[main.path.name], main.reference),
        glance=glance_figure(main),
        glance_of=f"{main.path.name}-representation",
        verdicts=[
            VerdictGroup(name, verdicts[study.path.name], study.regularizers)
            for name, study in zip(names, paper.studies, strict=True)
            if verdicts[study.path.name]
        ]
        + [VerdictGroup(f"Beyond the paper: {study_name(main)}", features, main.regularizers)] * bool(features),
        verdict_note=chance_note(sum(map(len, verdicts.values())), len(main.seeds)),
        sections=sections(paper, drawn),
        settings=paper_settings(paper),
        environment=environment(paper.config),
    )


def sections(paper: Paper, drawn: Mapping[str, Sequence[Drawing]]) -> list[Section]:
    """The sections for which the run has files, in the paper's order."""

    of_section: dict[str, list[Drawing]] = {}
    for part in PARTS:
        if part.name in paper.tables:
            of_section.setdefault(part.section, []).extend(part.figures(paper))

    found = [
        Section(
            "two-dimensions",
            "Two dimensions",
            "A bottleneck two wide before the head makes the representation space visible.",
        ),
        Section(
            "representation-space", "Magnitude, cosine, robustness, calibration", drawings=study_sections(paper, drawn)
        ),
        Section(
            "theorem",
            "Theorem 1",
            "For no bias and equal weight norms the optimal feature under soft labels is shorter than under hard "
            "ones. With biases that can fail; one part of it cannot.",
            formulas=("minimizer", "etf", "projection"),
        ),
        Section(
            "scaling-section",
            "Feature scaling and temperature scaling",
            formulas=("scaling",),
        ),
        Section("measures", "Tables", tables=tables(paper)),
        Section("radius-section", "How much our choice of radius matters"),
        Section("beyond", "Beyond the paper"),
    ]
    found = [replace(s, drawings=[*s.drawings, *of_section.get(s.id, [])]) for s in found]
    return [s for s in found if s.drawings or s.tables]


def study_sections(paper: Paper, drawn: Mapping[str, Sequence[Drawing]]) -> list[Drawing]:
    """Every figure of the main study, and Fig. 3 of the others; names are made unique and titles say which study."""
    found = []
    for place, study in enumerate(paper.studies):
        for drawing in drawn[study.path.name][: None if place == 0 else 1]:
            title = drawing.title if len(paper.studies) == 1 else f"{drawing.title} ({study_name(study)})"
            title = f"Fig. 3: {title[0].lower()}{title[1:]}" if drawing.name == "representation" else title
            svg = study.path / "figures" / f"{drawing.name}.svg"
            found.append(replace(drawing, name=f"{study.path.name}-{drawing.name}", title=title, svg=svg))
    return found


def tables(paper: Paper) -> list[Table]:
    """The table across architectures and data sets, and every measure of the main study."""
    return [across(paper.studies), replace(metrics_table(paper.main), title=f"Every measure, {study_name(paper.main)}")]


def paper_settings(paper: Paper) -> list[tuple[str, str, bool]]:
    """The run's own settings, then those of every study."""
    known = {"kind", "version", "command", "environment", "studies"}
    rows = [(key, words(value), True) for key, value in paper.config.items() if key not in known and value is not None]
    for study in paper.studies:
        prefix = f"{study_name(study)}: " if len(paper.studies) > 1 else ""
        rows += [(prefix + name, value, ours) for name, value, ours in settings(study.config)]
    return rows
