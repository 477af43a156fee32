"""Theorem 1 on heads: the simplex ETF with its closed form, random heads, and trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import MANY, Columns, Given, Part, Rows, Work, as_columns, behind, ours
from regfast.paper.results import Paper, where
from regfast.report import style
from regfast.report.drawing import Drawing
from regfast.report.figures import theorem1 as figure
from regfast.representation import etf_minimizer_norm, theorem1


class Theorem1(Part):
    """Norm and projection of the feature that minimizes the smoothed loss, over smoothing."""

    name = "theorem1"
    row = "a minimizer"
    columns = {
        "head": "`etf-10`, `random`, `<regularizer>-seed<k>`", "label": "", "smoothing": "", "ridge": "", "norm": "",
        "projection": "⟨v*, w_c - mean w⟩", "closed_form": "norm, for the ETF",
    }  # fmt: skip
    section = "theorem"
    named = False

    def settings(self, given: Given) -> dict[str, Any]:
        few = {"smoothing": [0.0, 0.1, 0.3, 0.9], "labels": 5, "classes_of_other_heads": MANY}
        return {
            "ridge": 1e-3,
            "smoothing": [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9],
            "random_dimensions": 64,
            "seed": 0,
            **(few if given.many else {}),
        }

    def of_run(self, work: Work) -> Columns:
        chosen = (work.settings[name] for name in ("smoothing", "ridge", "random_dimensions", "seed"))
        classes = work.settings.get("classes_of_other_heads", work.num_classes)
        return as_columns(known_heads(classes, *chosen))

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        settings, classes = work.settings, len(outputs.weight)
        labels = torch.linspace(0, classes - 1, settings.get("labels", classes)).long()
        head = f"{work.regularizer}-seed{work.seed}"
        rows = head_rows(head, outputs.weight, outputs.bias, settings["smoothing"], settings["ridge"], labels=labels)
        return as_columns(rows)

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def known_heads(num_classes: int, smoothing: Sequence[float], ridge: float, dimensions: int, seed: int) -> Rows:
    """Rows of theorem1.parquet for the simplex ETF of weight norm 1, and random heads without and with bias.

    A random head has (K, `dimensions`) normal weights of variance 1/`dimensions` and biases N(0, 1), from `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    etf = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    etf = etf / etf.norm(dim=1, keepdim=True)
    weight = torch.randn(num_classes, dimensions, generator=generator, dtype=torch.float64) / dimensions**0.5
    bias = torch.randn(num_classes, generator=generator, dtype=torch.float64)
    closed = [etf_minimizer_norm(num_classes, 1.0, level, ridge) for level in smoothing]
    return [
        *head_rows(f"etf-{num_classes}", etf, None, smoothing, ridge, closed),
        *head_rows("random, no bias", weight, None, smoothing, ridge),
        *head_rows("random", weight, bias, smoothing, ridge),
    ]


def head_rows(
    head: str,
    weight: Tensor,
    bias: Tensor | None,
    smoothing: Sequence[float],
    ridge: float,
    closed_form: Sequence[float] | None = None,
    labels: Tensor | None = None,
) -> Rows:
    """Rows of theorem1.parquet for one head, a class and a smoothing each; of the classes `labels`, by default all."""
    labels = torch.arange(len(weight)) if labels is None else labels
    found = theorem1(weight, bias, smoothing, ridge=ridge, labels=labels)
    closed = [np.nan] * len(smoothing) if closed_form is None else closed_form
    return [
        {
            "head": head,
            "label": label,
            "smoothing": float(level),
            "ridge": ridge,
            "norm": float(found.norm[place, column]),
            "projection": float(found.projection[place, column]),
            "closed_form": float(closed[place]),
        }
        for column, label in enumerate(labels.tolist())
        for place, level in enumerate(smoothing)
    ]


def draw(paper: Paper) -> list[Drawing]:
    """Theorem 1: the minimizer's norm and projection over smoothing, for the ETF, random and trained heads."""
    table = paper.tables["theorem1"]
    heads, rises = {}, []
    order = list(dict.fromkeys(table["head"].astype(str).tolist()))
    smoothing = np.unique(table["smoothing"])
    for name in order:
        rows = where(table, head=name)
        labels = np.unique(rows["label"])
        sort = np.lexsort((rows["smoothing"], rows["label"]))
        shape = (len(labels), len(smoothing))
        if len(sort) != shape[0] * shape[1]:
            raise ValueError(f"theorem1.parquet: {name} lacks a row for some class and smoothing")
        norm, projection, closed = (rows[k][sort].reshape(shape) for k in ("norm", "projection", "closed_form"))
        heads[head_title(name)] = figure.Minimizers(norm, projection, closed[0] if np.isfinite(closed).all() else None)
        up, _ = figure.rising(heads[head_title(name)])
        rises.append(f"{head_title(name)}: {up} of {len(labels)}")
    down = sum(figure.rising(h)[1] for h in heads.values())
    exact = [float(np.abs(h.norm / h.closed_form - 1).max()) for h in heads.values() if h.closed_form is not None]
    text = f"Classes whose norm rises somewhere with smoothing: {'; '.join(rises)}. "
    text += f"Projections that rise: {down}. " + (
        f"Largest deviation from the closed form of the ETF: {max(exact):.1e}." if exact else ""
    )
    ridge = ", ".join(f"{r:g}" for r in np.unique(table["ridge"]))
    trained = {
        n.rpartition("-seed")[0]: n for n in reversed(order) if "-seed" in n
    }  # the first seed of each regularizer
    shown = {head_title(n): heads[head_title(n)] for n in order if "-seed" not in n or n in trained.values()}
    return [
        Drawing(
            "theorem1",
            "Theorem 1: is the optimal feature shorter under soft labels?",
            figure.draw(smoothing, shown),
            "Top: norm of the feature that minimizes the smoothed loss, relative to its value at the least "
            "smoothing, a line per class (of more than 20 the median, nine tenths of them, and the five that rise "
            "most). The theorem, for no bias and equal weight norms, says that it falls; "
            "orange lines rise somewhere. Bottom: its component along the class's own weight, which by convexity can "
            "never rise.",
            text,
            {"minimizers": behind(table)},
            settings=f"Ridge λ = {ridge}, ours: without it a hard label has no finite minimizer. "
            f"{ours(paper, 'theorem1')} "
            "Random heads: normal weights of variance 1/d, biases N(0, 1).",
        )
    ]


def head_title(name: str) -> str:
    """A head of theorem1.parquet for readers."""
    regularizer, _, seed = name.rpartition("-seed")
    if regularizer:
        return f"{style.label(regularizer)}, seed {seed}"
    if name.startswith("etf-"):
        return f"Simplex ETF, K = {name[4:]}"
    return "Random, with bias" if name == "random" else name[:1].upper() + name[1:]
