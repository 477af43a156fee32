import itertools
import urllib.parse
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from regfast.report import style

PAPER = [style.color(name) for name in ("hard", "smoothing", "mixup", "cutmix")]
# Machado, Oliveira and Fernandes (2009), severity 1: what deuteranopes, protanopes and tritanopes see, in linear RGB.
DEFICIENCIES = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "none": np.eye(3),
}


def lab(color, matrix):
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(xyz / np.array([0.9505, 1, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_regularizers_can_be_told_apart_with_any_color_vision(deficiency, theme):
    colors = [style.DARK[c] if theme == "dark" else c for c in PAPER]
    for one, other in itertools.combinations(colors, 2):
        distance = np.linalg.norm(lab(one, DEFICIENCIES[deficiency]) - lab(other, DEFICIENCIES[deficiency]))
        assert distance > 14, (one, other, distance)  # 2 is just noticeable, 10 is told apart at a glance


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_paper(theme):
    def luminance(color):
        rgb = np.array(to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    shade = (lambda c: style.DARK[c]) if theme == "dark" else (lambda c: c)
    paper = luminance(shade(style.PAPER))
    for color, least in [(style.INK, 7), (style.MUTED, 4.5), *[(c, 3) for c in PAPER]]:
        bright, dim = sorted((luminance(shade(color)), paper), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= least, color  # WCAG 2.2: 4.5 for text, 3 for graphics


def test_other_regularizers_get_their_own_color_and_marker():
    names = ["hard", "mine", "yours"]
    assert len({style.color(n, names) for n in names}) == 3
    assert len({style.marker(n, names) for n in names}) == 3
    assert style.label("mine") == "mine"
    assert (style.in_sentence("smoothing"), style.in_sentence("mixup")) == ("label smoothing", "Mixup")
    assert (style.label("cosine-reward"), style.in_sentence("rms-penalty")) == ("Cosine reward", "RMS penalty")
    assert style.in_sentence("Mine") == "Mine"


def figure():
    drawn = Figure(figsize=(2, 2))
    drawn.subplots().plot([0, 1], [0, 1], color=style.color("hard"))
    return drawn


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    first, second = style.save(figure(), tmp_path / "a", "f"), style.save(figure(), tmp_path / "b", "f")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert len(one.read_bytes()) > 500


def test_drawing_leaves_the_global_settings_alone():
    before = dict(matplotlib.rcParams)
    style.styled(lambda: matplotlib.rcParams["font.size"])()
    assert dict(matplotlib.rcParams) == before
    assert style.styled(lambda: matplotlib.rcParams["font.size"])() == style.RC["font.size"]


def test_the_embedded_svg_follows_the_readers_theme(tmp_path):
    _, svg = style.save(figure(), tmp_path, "f")
    kind, encoded = style.themed_svg(svg).split(",", 1)
    text = urllib.parse.unquote(encoded)
    assert kind == "data:image/svg+xml"
    assert not set('"<>&#') & set(encoded)
    assert "prefers-color-scheme:dark" in text
    assert f"stroke: {style.color('hard')}" not in text
    ElementTree.fromstring(text)
    assert f"stroke: {style.color('hard')}" in svg.read_text()  # the file itself has plain colors, for every program
