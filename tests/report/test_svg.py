import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from regfast.report.svg import compact, short_path


def vertices(path):
    """End points of every command of a path's data, absolute; a minimal reader of relative and absolute commands."""
    tokens = re.findall(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)", path)
    here, start, found, place, command = np.zeros(2), np.zeros(2), [], 0, ""
    while place < len(tokens):
        if tokens[place].isalpha():
            command = tokens[place]
            place += 1
        if command in "zZ":
            here = start
            continue
        count = {"m": 2, "l": 2, "q": 4, "c": 6}[command.lower()]
        points = np.array([float(t) for t in tokens[place : place + count]]).reshape(-1, 2)
        here = points[-1] + (here if command.islower() else 0)
        start = here if command in "mM" else start
        found.append(here)
        place += count
    return np.array(found)


def test_a_short_path_goes_where_the_long_one_went():
    rng = np.random.default_rng(0)
    points = rng.uniform(-50, 50, (400, 2)).cumsum(axis=0)  # rounding must not add up along the way
    path = "M " + " \nL ".join(f"{x:.6f} {y:.6f}" for x, y in points) + " \nz\nM 1.5 2.25 \nL 7.129 -0.004"
    short = short_path(path)
    assert len(short) < 0.6 * len(path)
    np.testing.assert_allclose(vertices(short), np.vstack([points, [[1.5, 2.25], [7.129, -0.004]]]), atol=0.0051)


def test_curves_keep_their_control_points():
    assert short_path("M 0 -3 \nC 0.75 -3 1.5 -2.6 2 -2 \nQ 3 -1 3 0 \nz") == "M0-3c.75 0 1.5.4 2 1q1 1 1 2z".replace(
        "1.5.4", "1.5 .4"
    )


def test_points_on_a_straight_run_are_left_out_and_corners_are_not():
    run = "M 0 0 \n" + "".join(f"L {x} 0 \n" for x in range(1, 6)) + "L 5 4 \nL 0 4 \nz"
    assert vertices(short_path(run)).tolist() == [[0, 0], [5, 0], [5, 4], [0, 4]]
    back = "M 0 0 \nL 4 0 \nL 2 0"  # a turn by half a circle is a corner
    assert vertices(short_path(back)).tolist() == [[0, 0], [4, 0], [2, 0]]
    assert vertices(short_path("M 3 3 \nL 3 3")).tolist() == [[3, 3], [3, 3]]  # a dot with round caps


def test_a_fine_curve_moves_by_less_than_a_tenth_of_a_point():
    turn = np.linspace(0, 2 * np.pi, 3000)
    curve = 100 * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    kept = vertices(short_path("M " + " \nL ".join(f"{x:.6f} {y:.6f}" for x, y in curve)))
    assert len(kept) < 1000
    middle = (kept[1:] + kept[:-1]) / 2
    assert np.abs(np.linalg.norm(middle, axis=1) - 100).max() < 0.1


@pytest.fixture(scope="module")
def pair():
    figure = Figure(figsize=(4, 3))
    left, right = figure.subplots(1, 2)
    rng = np.random.default_rng(0)
    left.scatter(*rng.normal(size=(2, 200)), c=rng.random(200), s=6)
    left.set_title("a title")
    right.contourf(rng.random((20, 20)))
    right.imshow(rng.random((5, 5)), extent=(0, 5, 0, 5))
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue(), compact(out.getvalue())


def test_the_picture_keeps_every_mark(pair):
    before, after = pair
    assert len(after) < 0.6 * len(before)
    old, new = (ElementTree.fromstring(text) for text in pair)
    namespace = "{http://www.w3.org/2000/svg}"
    for tag in ("path", "use", "image", "clipPath"):
        assert len(list(old.iter(namespace + tag))) == len(list(new.iter(namespace + tag))), tag
    assert old.get("viewBox") == new.get("viewBox")
    # Every name that is used is there, and every mark has the style it had.
    ids = {element.get("id") for element in new.iter() if element.get("id")}
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', after)) == ids
    rules = dict(re.findall(r"\.(s\d+)\{([^}]*)\}", after))
    styles = [[e.get("style") for e in old.iter() if e.get("style")]]
    styles.append([rules[e.get("class")] for e in new.iter() if e.get("class")])
    assert styles[0] == styles[1]


def test_the_same_picture_gives_the_same_bytes(pair):
    assert compact(pair[0]) == pair[1]
    assert "<metadata" not in pair[1] and "<!--" not in pair[1]


def test_text_stays_text_whatever_it_says():
    figure = Figure(figsize=(2, 2))
    hostile = 'a "b" d="M 1" id="x" <i> & style="y"'
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.suptitle(hostile)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    read = ElementTree.fromstring(compact(out.getvalue()))
    assert hostile in {element.text for element in read.iter("{http://www.w3.org/2000/svg}text")}
