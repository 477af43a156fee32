"""`regfast plot`: one figure of a page alone."""

import re

import pytest

from regfast.cli import run as command
from regfast.report.plot import list_figures, plot
from regfast.runs.errors import InputError


def test_a_figure_of_the_paper_with_names_size_and_fonts_of_its_own(run_dir, tmp_path):
    options = ["--figure", "3", "--width", "5.5in", "--height", "12cm", "--font-size", "9"]
    looks = ["--label", "hard=No $regularizer", "--color", "mixup=#aa0011"]
    assert command(["plot", str(run_dir), *options, *looks, "--out", str(tmp_path / "f.svg")]) == 0
    text = (tmp_path / "f.svg").read_text(encoding="utf-8")
    assert "No $regularizer" in text and "Hard labels" not in text and "#aa0011" in text
    wide, high = map(float, re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"|$', text).groups())
    assert (wide, high) == (pytest.approx(5.5 * 72), pytest.approx(12 / 2.54 * 72))
    assert "font-size: 9px" in text or "font: 9px" in text


def test_a_pdf_embeds_its_fonts(run_dir, tmp_path):
    written = plot(run_dir, "asr-over-eps-pgd-linf", tmp_path / "new" / "f.pdf").read_bytes()
    assert written.startswith(b"%PDF") and b"/FontFile2" in written and b"/Type3" not in written


def test_what_cannot_be_drawn_is_named(run_dir, tmp_path, capsys):
    names = [name for name, _, _ in list_figures(run_dir)]
    assert names[:2] == ["glance", "representation"]
    for figure, message in (("reprsentation", "did you mean representation"), (7, "no figure '7'")):
        with pytest.raises(InputError, match=message):
            plot(run_dir, figure)
    with pytest.raises(InputError, match="no 'hrd' to name or color; it has cutmix, hard"):
        plot(run_dir, 3, tmp_path / "f.pdf", labels={"hrd": "x"})
    with pytest.raises(InputError, match=r"must end in \.pdf"):
        plot(run_dir, 3, tmp_path / "f.bmp")
    for option, value in (("--width", "5,5in"), ("--width", "200in"), ("--color", "mixup=#12"), ("--label", "hard")):
        assert command(["plot", str(run_dir), "--figure", "3", option, value]) == 2
        assert value.rpartition("=")[2][:3] in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
