"""What the page of a paper run says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from regfast.report import beyond_figures, paper_figures, style
from regfast.report.claims import Verdict
from regfast.report.drawing import Drawing
from regfast.report.page import Page, Section, VerdictGroup
from regfast.report.paper_results import Paper
from regfast.report.results import Study
from regfast.report.study_figures import attack_settings, training
from regfast.report.study_page import chance_note, environment, settings, study_name, words
from regfast.report.tables import ERRORS, Cell, Table, estimate, metrics_table

WIDE = ("accuracy", "ece", "rms", "cosine", "cosine_in_span")


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
    every = [v for found in verdicts.values() for v in found]
    counts = {answer: sum(v.answer == answer for v in every) for answer in ("holds", "does not hold", "undecided")}
    names = [study_name(study) for study in paper.studies]
    lead = (
        "Park, Kim and Lee report that label smoothing, Mixup and CutMix pull a classifier's features toward the "
        "origin and toward their class centers, and that this is why such classifiers are better calibrated and "
        f"harder to fool. Every figure and table that the paper's text defines, made again on {len(names)} "
        f"{'studies' if len(names) > 1 else 'study'} of our own. "
    )
    if every:
        lead += (
            f"Of {len(every)} comparisons, the claim holds in {counts['holds']}, does not hold in "
            f"{counts['does not hold']} and is undecided in {counts['undecided']}."
        )
    main = paper.main
    return Page(
        title="Soft labels in the representation space: the paper's figures and tables",
        lead=lead,
        facts=[
            ("Studies", "; ".join(names)),
            ("Seeds", str(len(main.seeds))),
            ("Test samples", str(main.order[main.regularizers[0]].shape[1])),
        ],
        verdicts=[
            VerdictGroup(name, verdicts[study.path.name], study.regularizers)
            for name, study in zip(names, paper.studies, strict=True)
            if verdicts[study.path.name]
        ]
        + [VerdictGroup(f"Beyond the paper: {study_name(main)}", features, main.regularizers)] * bool(features),
        verdict_note=chance_note(len(every), len(main.seeds)),
        sections=sections(paper, drawn),
        settings=paper_settings(paper),
        environment=environment(paper.config),
    )


def sections(paper: Paper, drawn: Mapping[str, Sequence[Drawing]]) -> list[Section]:
    """The sections for which the run has files, in the paper's order."""

    def part(name: str, parts: Mapping[str, Any]) -> list[Drawing]:
        file = "planes" if name == "fields" else name
        return parts[name](paper) if file in paper.tables else []

    found = [
        Section(
            "two-dimensions",
            "Two dimensions",
            "A bottleneck two wide before the head makes the representation space visible.",
            part("planes", paper_figures.PARTS) + part("fields", paper_figures.PARTS),
        ),
        Section(
            "representation-space", "Magnitude, cosine, robustness, calibration", drawings=study_sections(paper, drawn)
        ),
        Section(
            "theorem",
            "Theorem 1",
            "For no bias and equal weight norms the optimal feature under soft labels is shorter than under hard "
            "ones. With biases that can fail; one part of it cannot.",
            part("theorem1", paper_figures.PARTS),
            formulas=("minimiser", "etf", "projection"),
        ),
        Section(
            "scaling-section",
            "Feature scaling and temperature scaling",
            drawings=part("scaling", paper_figures.PARTS) + part("smooth", paper_figures.PARTS),
            formulas=("scaling",),
        ),
        Section("measures", "Tables", tables=tables(paper)),
        Section(
            "radius-section", "How much our choice of radius matters", drawings=part("radius", paper_figures.PARTS)
        ),
        Section(
            "beyond",
            "Beyond the paper",
            drawings=[d for name in beyond_figures.PARTS for d in part(name, beyond_figures.PARTS)],
        ),
    ]
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


def across(studies: Sequence[Study]) -> Table:
    """One row per data set, model and regularizer: accuracy, ECE, RMS, cosine and the ASR of each attack."""
    ids = list(dict.fromkeys(a["id"] for study in studies for a in study.config.get("attacks", [])))
    titles = {
        "accuracy": "Accuracy",
        "ece": "ECE",
        "rms": "RMS",
        "cosine": "Cosine",
        "cosine_in_span": "Cosine, in-span",
    }
    head = ["Data and model", "Regularizer", *(titles[m] for m in WIDE), *(f"ASR {i.replace('_', ' ')}" for i in ids)]
    rows: list[list[Cell]] = []
    for study in studies:
        for name in study.regularizers:
            metrics = study.metrics.get("regularizers", {}).get(name, {})
            values = [estimate(metrics.get(m)) for m in (*WIDE, *(f"asr_{i}" for i in ids))]
            rows.append([study_name(study), style.label(name), *values])
    note = f"Mean over seeds and 95 % interval. {ERRORS} Ours: "
    note += ". ".join(
        f"{study_name(study)}: {training(study)}; {attack_settings(study.config.get('attacks', []))}"
        for study in studies
    )
    note += "."
    return Table("across", "Across data sets and architectures", head, rows, note, stacked=True)


def paper_settings(paper: Paper) -> list[tuple[str, str, bool]]:
    """The run's own settings, then those of every study."""
    known = {"kind", "version", "command", "environment", "studies"}
    rows = [(key, words(value), True) for key, value in paper.config.items() if key not in known and value is not None]
    for study in paper.studies:
        prefix = f"{study_name(study)}: " if len(paper.studies) > 1 else ""
        rows += [(prefix + name, value, ours) for name, value, ours in settings(study.config)]
    return rows
