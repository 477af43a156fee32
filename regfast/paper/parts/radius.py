"""How every cosine depends on the radius of v_opt."""

from __future__ import annotations

from typing import Any

import numpy as np

from regfast.paper.outputs import Outputs
from regfast.paper.parts.base import Columns, Given, Part, Rows, Work, as_columns, behind, geometric, ours
from regfast.paper.results import Paper, where
from regfast.report.drawing import Drawing
from regfast.report.figures import radius
from regfast.report.tables import listed
from regfast.representation import default_radius, radius_sensitivity
from regfast.representation.geometry import cosine


class Radius(Part):
    """How v_opt turns with its radius, and what that does to the cosine."""

    name = "radius"
    row = "a class and a radius of v_opt"
    columns = {
        "regularizer": "", "seed": "", "label": "", "radius": "in units of the default radius",
        "angle": "to the r→0 direction", "angle_limit": "of the r→∞ direction",
        "cosine": "mean of the class's correct features with v_opt at this radius",
    }  # fmt: skip
    section = "radius-section"

    def settings(self, given: Given) -> dict[str, Any]:
        limit = {"limit": False} if given.many else {}
        return {"radii": geometric(1 / 16, 16, given.radii), "unit": "median norm of the correct features", **limit}

    def of_model(self, work: Work, outputs: Outputs) -> Columns:
        return as_columns(compute(outputs, work.settings["radii"], work.settings.get("limit", True)))

    def figures(self, paper: Paper) -> list[Drawing]:
        return draw(paper)


def compute(outputs: Outputs, radii: list[float], limit: bool = True) -> Rows:
    """Rows of radius.parquet: how v_opt turns with its radius, and what that does to the cosine.

    `limit`: with the r→∞ direction, which takes hours for 1,000 classes.
    """
    usual = default_radius(outputs.features, outputs.correct)
    found = radius_sensitivity(outputs.weight, outputs.bias, [factor * usual for factor in radii], limit=limit)
    correct, labels = outputs.correct, outputs.labels
    rows = []
    for place, factor in enumerate(radii):
        own = cosine(outputs.features.double(), found.points[place][labels])
        for label in range(len(outputs.weight)):
            mine = own[correct & (labels == label)]
            rows.append(
                {
                    "label": label,
                    "radius": float(factor),
                    "angle": float(found.angle[place, label]),
                    "angle_limit": float(found.angle_limit[label]),
                    "cosine": float(mine.mean()) if len(mine) else float("nan"),
                }
            )
    return rows


def draw(paper: Paper) -> list[Drawing]:
    """How every cosine depends on the radius of v_opt."""
    table = paper.tables["radius"]
    names, radii = paper.regularizers(table), np.unique(table["radius"])
    angles, limits, cosines, spans = {}, {}, {}, {}
    for name in names:
        rows = where(table, regularizer=name)
        sort = np.lexsort((rows["radius"], rows["label"], rows["seed"]))
        angle, cosine = (rows[k][sort].reshape(-1, len(radii)) for k in ("angle", "cosine"))
        angles[name], cosines[name] = angle, cosine
        limits[name] = rows["angle_limit"][sort].reshape(-1, len(radii))[:, 0]
        middle = np.nanmedian(cosine, axis=0)
        spans[name] = float(middle.max() - middle.min())
    known = {n: values for n, values in limits.items() if np.isfinite(values).any()}
    turned = {n: float(np.nanmedian(values)) * 180 / np.pi for n, values in known.items()}
    look = (
        "v_opt is the best feature of a given norm, and the norm is our choice. Left: how far its direction turns as "
        f"the norm grows{', up to the max-margin direction (hollow markers)' if known else ''}. Right: do the curves "
        "keep their order whatever the radius? Lines are medians over classes and seeds, bands run from the lowest to "
        "the highest."
    )
    found = f"The median cosine moves over the radii shown by {listed(spans)}."
    if known:
        found = f"From r → 0 to r → ∞ the direction turns by a median of (in degrees) {listed(turned)}. {found}"
    return [
        Drawing(
            "radius",
            "Sensitivity to the radius of v_opt",
            radius.draw(radii, angles, known, cosines),
            look,
            found,
            {"radius": behind(table)},
            settings="Default radius: the median norm of the correctly classified features, ours. "
            f"{ours(paper, 'radius')}",
        )
    ]
