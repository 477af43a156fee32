"""The figures of a paper run that are about the main study: what to look for in each, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from regfast.report import style
from regfast.report.drawing import Drawing, sentence
from regfast.report.figures import fields, plane, radius, scaling, smooth, theorem1
from regfast.report.paper_results import Paper, planes, where
from regfast.report.study_figures import alphas
from regfast.report.tables import listed, number

Array = npt.NDArray[Any]


def columns(table: Mapping[str, Array]) -> dict[str, list[Any]]:
    """A Parquet table as the numbers behind a figure."""
    return {name: values.tolist() for name, values in table.items()}


def plane_figures(paper: Paper) -> list[Drawing]:
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
            {"points": columns(paper.tables["planes"])},
            settings=ours(paper, "planes"),
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
                {"points": columns(paper.tables["planes"])},
                settings=ours(paper, "planes"),
            )
        )
    return drawings


def uneven(found: Sequence[plane.Plane], factor: float = 2.5) -> bool:
    """Whether the largest panel's own window is so much larger than the smallest's that one for all hides something."""
    halves = [plane.window([p]) for p in found]
    return max(halves) > factor * min(halves)


def field_figures(paper: Paper) -> list[Drawing]:
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
                data={"points": columns(paper.tables["planes"])},
                settings=f"Class {label} and the head {bias} bias are our choice; {part_settings(paper, 'planes')}",
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
    ours = f"Class {label} and the head {bias} bias are our choice; {part_settings(paper, 'planes')}"
    data = {"points": columns(paper.tables["planes"])}
    drawings.append(Drawing("gradient-field", title, fields.draw_field(row, label), look, carried, data, settings=ours))
    if uneven(row):
        own = fields.draw_field(row, label, shared=False)
        title, look = (
            f"{title}, each panel at its own scale",
            f"The same with a window for each panel: mind the axes. {look}",
        )
        drawings.append(Drawing("gradient-field-own-scale", title, own, look, carried, data, settings=ours))
    return drawings


def part_settings(paper: Paper, part: str) -> str:
    """The settings of a part in words; nothing where the run names none."""
    given = paper.config.get(part) or {}
    strengths = [alphas(paper.main.config)] if part == "planes" else []
    return "; ".join([*strengths, *(f"{key} = {_value(value)}" for key, value in given.items())]) + "." if given else ""


def _value(value: Any) -> str:
    """A setting in words; a long list by its ends."""
    if not isinstance(value, (list, tuple)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if len(value) > 4:
        return f"{_value(value[0])} … {_value(value[-1])} ({len(value)} values)"
    return ", ".join(map(_value, value))


def ours(paper: Paper, part: str) -> str:
    """The settings of a part as a figure says them."""
    settings = part_settings(paper, part)
    return f"Ours: {settings}" if settings else ""


def _inward(p: plane.Plane, label: int) -> float:
    mine = p.features[p.labels == label]
    if not len(mine):
        return float("nan")
    slope = fields.field_at(p, label, mine)
    lengths = np.linalg.norm(slope, axis=1) * np.linalg.norm(mine, axis=1)
    keep = lengths > 0
    return float((-(slope * mine).sum(axis=1)[keep] / lengths[keep]).mean()) if keep.any() else float("nan")


def theorem_figures(paper: Paper) -> list[Drawing]:
    """Theorem 1: the minimiser's norm and projection over smoothing, for the ETF, random and trained heads."""
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
        heads[head_title(name)] = theorem1.Minimisers(
            norm, projection, closed[0] if np.isfinite(closed).all() else None
        )
        up, _ = theorem1.rising(heads[head_title(name)])
        rises.append(f"{head_title(name)}: {up} of {len(labels)}")
    down = sum(theorem1.rising(h)[1] for h in heads.values())
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
            theorem1.draw(smoothing, shown),
            "Top: norm of the feature that minimises the smoothed loss, relative to its value at the least "
            "smoothing, a line per class. The theorem, for no bias and equal weight norms, says that it falls; "
            "orange lines rise somewhere. Bottom: its component along the class's own weight, which by convexity can "
            "never rise.",
            text,
            {"minimisers": columns(table)},
            settings=f"Ridge λ = {ridge}, ours: without it a hard label has no finite minimiser. "
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


def scaling_figures(paper: Paper) -> list[Drawing]:
    """Feature scaling and temperature scaling: ECE over the scale."""
    table = paper.tables["scaling"]
    names, scales = paper.regularizers(table), np.unique(table["scale"])
    ece: dict[str, dict[str, Array]] = {n: {} for n in names}
    changed: dict[str, dict[str, Array]] = {n: {} for n in names}
    best = []
    for name in names:
        for kind in scaling.LINES:
            rows = where(table, regularizer=name, kind=kind)
            sort = np.lexsort((rows["scale"], rows["seed"]))
            ece[name][kind], changed[name][kind] = (rows[k][sort].reshape(-1, len(scales)) for k in ("ece", "changed"))
        spots = {kind: int(ece[name][kind].mean(axis=0).argmin()) for kind in scaling.LINES}
        lowest = {kind: float(ece[name][kind].mean(axis=0)[k]) for kind, k in spots.items()}
        moved = float(changed[name]["feature"].mean(axis=0)[spots["feature"]])
        best.append(
            f"{style.in_sentence(name)} {lowest['temperature']:.3f} at s = {scales[spots['temperature']]:.3g} by "
            f"temperature, {lowest['feature']:.3f} at s = {scales[spots['feature']]:.3g} by features ({moved:.1%} of "
            "predictions change)"
        )
    return [
        Drawing(
            "scaling",
            "Feature scaling and temperature scaling",
            scaling.draw(scales, ece, changed),
            "The two curves agree where the bias is constant over the classes. A minimum to the left of 1 is "
            "over-confidence, to the right under-confidence. Only feature scaling changes predictions, because (1 − "
            "s) b stays behind.",
            f"Lowest ECE: {'; '.join(best)}.",
            {"scaling": columns(table)},
            settings=f"{ours(paper, 'scaling')} The optima are read off the test data: a best case, not a calibrated "
            "model.".strip(),
        )
    ]


def smooth_figures(paper: Paper) -> list[Drawing]:
    """Calibration without bins: smECE and the smooth reliability diagram."""
    table = paper.tables["smooth"]
    models, found = {}, []
    for name in paper.regularizers(table):
        rows = where(table, regularizer=name)
        rows = where(rows, seed=rows["seed"].min())
        order = np.argsort(rows["confidence"], kind="stable")
        error, low, high = (float(rows[key][0]) for key in ("error", "error_low", "error_high"))
        curves = {key: rows[key][order] for key in ("confidence", "accuracy", "low", "high", "density")}
        models[name] = smooth.Smooth(**curves, error=(error, low, high))
        found.append(f"{style.in_sentence(name)} {number(error)} [{number(low)}, {number(high)}]")
    return [
        Drawing(
            "smooth",
            "Calibration without bins",
            smooth.draw(models),
            "Accuracy over confidence by kernel regression, at the bandwidth that the data fix (Błasiok and Nakkiran "
            "2023), with a 95 % bootstrap band; below, how often each confidence occurs. Below the diagonal is "
            "over-confidence. Does the sign agree with the binned diagram's, and is the diagonal inside the band?",
            f"Smooth calibration error with its 95 % interval, first seed: {sentence(found)}.",
            {"smooth": columns(table)},
            settings=ours(paper, "smooth"),
        )
    ]


def radius_figures(paper: Paper) -> list[Drawing]:
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
    turned = {n: float(np.nanmedian(limits[n])) * 180 / np.pi for n in names}
    return [
        Drawing(
            "radius",
            "Sensitivity to the radius of v_opt",
            radius.draw(radii, angles, limits, cosines),
            "v_opt is the best feature of a given norm, and the norm is our choice. Left: how far its direction "
            "turns as the norm grows, up to the max-margin direction (hollow markers). Right: do the curves keep "
            "their order whatever the radius? Lines are medians over classes and seeds, bands run from the lowest to "
            "the highest.",
            f"From r → 0 to r → ∞ the direction turns by a median of (in degrees) {listed(turned)}. The median cosine "
            f"moves over the radii shown by {listed(spans)}.",
            {"radius": columns(table)},
            settings="Default radius: the median norm of the correctly classified features, ours. "
            f"{ours(paper, 'radius')}",
        )
    ]


PARTS: dict[str, Callable[[Paper], list[Drawing]]] = {
    "planes": plane_figures,
    "fields": field_figures,
    "theorem1": theorem_figures,
    "scaling": scaling_figures,
    "smooth": smooth_figures,
    "radius": radius_figures,
}
