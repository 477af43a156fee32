"""The paper's table: accuracy, calibration, geometry and attacks, a row a model, over any number of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from regfast.report import kind_of, style
from regfast.report.results import Study
from regfast.report.study_figures import attack_settings, training
from regfast.report.study_page import study_name
from regfast.report.tables import ERRORS, Cell, Table, estimate
from regfast.runs.errors import InputError, MissingInput
from regfast.runs.files import read_json
from regfast.runs.folder import inside

WIDE = {"accuracy": "Accuracy", "ece": "ECE", "rms": "RMS", "cosine": "Cosine", "cosine_in_span": "Cosine, in-span"}


def studies_of(run_dir: str | Path) -> list[Study]:
    """The studies, or the measured networks, in ``run_dir``: one, or several of a paper run.

    Raises:
        InputError: it holds an evaluation, or damaged files.
        MissingInput: it holds no run, or one that is not finished.
    """
    path = Path(run_dir)
    kind = kind_of(path)
    if kind == "evaluation":
        raise InputError(f"{path} holds an evaluation; evaluations are compared with evaluations alone")
    if kind != "paper":
        return [Study.read(path)]
    listed = read_json(path / "config.json").get("studies") or []
    if not listed:
        raise MissingInput(f"{path} holds a paper run without studies")
    return [Study.read(inside(path, str(entry["folder"]))) for entry in listed]


def across(studies: Sequence[Study]) -> Table:
    """One row per data set, model and regularizer: accuracy, ECE, RMS, cosine and the ASR of each attack."""
    ids = list(dict.fromkeys(a["id"] for study in studies for a in study.config.get("attacks", [])))
    head = ["Data and model", "Regularizer", *WIDE.values(), *(f"ASR {i.replace('_', ' ')}" for i in ids)]
    names = _names(studies)
    rows: list[list[Cell]] = []
    for study, name in zip(studies, names, strict=True):
        for regularizer in study.regularizers:
            metrics = study.metrics.get("regularizers", {}).get(regularizer, {})
            values = [estimate(metrics.get(m)) for m in (*WIDE, *(f"asr_{i}" for i in ids))]
            rows.append([name, style.label(regularizer), *values])
    note = f"Mean over seeds and 95 % interval. {ERRORS} Ours: "
    note += ". ".join(
        f"{name}: {training(study)}; {attack_settings(study.config.get('attacks', []))}"
        for study, name in zip(studies, names, strict=True)
    )
    return Table("across", "Across data sets and architectures", head, rows, f"{note}.", stacked=True)


def _names(studies: Sequence[Study]) -> list[str]:
    """Data set and model of each, with its folder where that alone would not tell them apart."""
    names = [study_name(study) for study in studies]
    many = Counter(names)
    return [
        name if many[name] == 1 else f"{name} ({study.path.name})" for name, study in zip(names, studies, strict=True)
    ]
