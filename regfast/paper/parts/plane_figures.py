"""The figures of the planes: decision regions, confidence, loss and gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regfast.paper.parts.base import behind, ours, settings_text
from regfast.paper.results import Paper, planes
from regfast.report import style
from regfast.report.drawing import Drawing
from regfast.report.figures import fields, plane
from regfast.report.tables import listed, number


def draw_planes(paper: Paper) -> list[Drawing]:
    """Fig. 1 and 4: decision regions and features, without and with bias."""
    found = planes(paper)
    names = {False: "no bias", True: "with bias"}
    rows = [(names[bias], found[bias]) for bias in found]
    norms: dict[str, dict[str, float]] = {}
    astray, outside = [], 0
    half = plane.window([p for _, row in rows for p in row])
    for name, row in rows:
        for p in row:
            norms.setdefault(name, {})[p.regularizer] = float(np.median(np.linalg.norm(p.features, axis=1)))
            wrong = int((p.predicted(p.centers) != np.arange(len(p.centers))).sum())
            outside += int((np.abs(p.centers).max(axis=1) > 0.97 * half).sum())
            if wrong:
                astray.append(f"{style.in_sentence(p.regularizer)}, {name}: {wrong} of {len(p.centers)}")
    text = " ".join(f"Median length of a feature, {name}: {listed(values)}." for name, values in norms.items())
    text += (
        f" Centers that lie in another class's region: {'; '.join(astray)}."
        if astray
        else " Every class center lies in its own class's region."
    )
    if outside:
        text += f" {outside} centers lie outside the window and are drawn as arrows."
    drawings = [
        Drawing(
            "plane",
            "Fig. 1 and 4: two-dimensional representation spaces",
            plane.draw(rows),
            "Every panel has the same window. Do features shrink toward the origin and gather around their class's "
            "cross? Without a bias the regions are cones; with one they can be islands, and a center need not lie in "
            "its own class's region, because in two dimensions ten classes cannot all be told apart at once.",
            text,
            {"points": behind(paper.tables["planes"])},
            settings=ours(paper, "planes"),
            paper=(1, 4),
        )
    ]
    if uneven([p for _, row in rows for p in row]):
        drawings.append(
            Drawing(
                "plane-own-scale",
                "Fig. 1 and 4, each panel at its own scale",
                plane.draw(rows, shared=False),
                "In one window for all, the shorter features lie on top of one another. Here every panel is as large "
                "as its own features: mind the axes.",
                text,
                {"points": behind(paper.tables["planes"])},
                settings=ours(paper, "planes"),
            )
        )
    return drawings


def uneven(found: Sequence[plane.Plane], factor: float = 2.5) -> bool:
    """Whether the largest panel's own window is so much larger than the smallest's that one for all hides something."""
    halves = [plane.window([p]) for p in found]
    return max(halves) > factor * min(halves)


def draw_fields(paper: Paper) -> list[Drawing]:
    """Fig. 2 and 5: confidence, loss and gradient of one class."""
    found = planes(paper)
    label = int(paper.config.get("planes", {}).get("label", 0))
    row = found.get(True) or found[False]
    bias = "with" if True in found else "without"
    drawings = []
    for p in row:
        inward = _inward(p, label)
        drawings.append(
            Drawing(
                f"confidence-{p.regularizer}",
                f"Fig. 2: confidence, loss and gradient, {style.in_sentence(p.regularizer)}",
                fields.draw_confidence(p, label),
                "Left: where the head is confident, and where the features are. Middle: loss of one class and the "
                "direction in which it falls; the box is enlarged on the right. Arrows have unit length. If they point "
                "away from the origin, a gradient attack, which goes the other way, pushes features toward it.",
                f"At the features of class {label}, the gradient's cosine with the direction to the origin has the "
                f"mean {number(inward)} (1: the attack pushes straight inward).",
                data={"points": behind(paper.tables["planes"])},
                settings=f"Class {label} and the head {bias} bias are our choice; {settings_text(paper, 'planes')}",
                paper=(2,),
            )
        )
    parts = {}
    for p in row:
        mine = (
            (p.labels == label) & np.isfinite(p.perturbed).all(axis=1)
            if len(p.perturbed)
            else np.zeros(len(p.labels), bool)
        )
        right = mine & (p.predicted(p.features) == label)
        if right.any():
            parts[p.regularizer] = float((p.predicted(p.perturbed[right]) != label).mean())
    look = (
        "Arrows point where the loss rises; the thick line is the class's boundary. Each line joins a clean feature "
        "with the same one under attack: does it follow the arrows toward the origin, and does it cross the boundary?"
    )
    carried = (
        f"Share of class {label}'s correct features that the attack carries over the boundary: {listed(parts)}."
        if parts
        else "No feature of this class was attacked."
    )
    title = "Fig. 5: loss, gradient and the features an attack moves"
    ours = f"Class {label} and the head {bias} bias are our choice; {settings_text(paper, 'planes')}"
    data = {"points": behind(paper.tables["planes"])}
    field = fields.draw_field(row, label)
    drawings.append(Drawing("gradient-field", title, field, look, carried, data, settings=ours, paper=(5,)))
    if uneven(row):
        own = fields.draw_field(row, label, shared=False)
        title, look = (
            f"{title}, each panel at its own scale",
            f"The same with a window for each panel: mind the axes. {look}",
        )
        drawings.append(Drawing("gradient-field-own-scale", title, own, look, carried, data, settings=ours))
    return drawings


def _inward(p: plane.Plane, label: int) -> float:
    mine = p.features[p.labels == label]
    if not len(mine):
        return float("nan")
    slope = fields.field_at(p, label, mine)
    lengths = np.linalg.norm(slope, axis=1) * np.linalg.norm(mine, axis=1)
    keep = lengths > 0
    return float((-(slope * mine).sum(axis=1)[keep] / lengths[keep]).mean()) if keep.any() else float("nan")
