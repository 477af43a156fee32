"""The page of an evaluation: what it shows, that it escapes names, and that the same files give the same bytes."""

import json
import shutil

import pytest
import torch

from regfast.attacks import PGD, AutoAttack
from regfast.data import ImageArray
from regfast.evaluation import evaluate
from regfast.report import write_report
from regfast.report.evaluation_figures import _factor
from tests.evaluation.toy import RowwiseLinear, Toy

NAME = "<b>cat</b>"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    source = Toy()
    data = ImageArray(source.images, source.labels, [NAME, "dog", "bird", "frog"])
    attacks = [PGD("linf", eps, steps=5) for eps in (4 / 255, 0.1)] + [AutoAttack("linf", 0.1, version="fast")]
    out = tmp_path_factory.mktemp("run") / "evaluation"
    return evaluate(
        RowwiseLinear().eval(), data, attacks, out=out, progress=False, device="cpu", model_name="my <model>"
    ).folder


def test_what_the_page_says(run):
    page = write_report(run).read_text(encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text())
    assert "Robustness of my &lt;model&gt;" in page and "<model>" not in page and NAME not in page
    assert "Robust at 4/255 (ℓ∞)" in page and "Robust at 0.1 (ℓ∞)" in page and "autoattack-fast" in page
    assert f"{100 * summary['clean']['value']:.1f} %" in page
    for figure in ("robust-accuracy", "examples", "classes"):
        assert (run / "figures" / f"{figure}.svg").is_file() and f'id="{figure}"' in page
    assert "arXiv 2410.03999) leaves" not in page, "nothing of a study's settings"
    assert "apgd-pma" in page, "which stage broke how many"


def test_the_same_files_give_the_same_bytes(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    assert write_report(run).read_bytes() == write_report(tmp_path / "copy").read_bytes()


def test_a_run_in_which_nothing_fell_has_a_page(tmp_path):
    attack = PGD("linf", 1e-6, steps=2)
    folder = evaluate(RowwiseLinear().eval(), Toy(), [attack], out=tmp_path, progress=False, device="cpu").folder
    page = write_report(folder).read_text(encoding="utf-8")
    assert 'id="examples"' not in page and 'id="classes"' in page


def test_a_perturbation_is_enlarged_within_the_gray_scale():
    assert [_factor(largest) for largest in (0.5, 0.3, 8 / 255, 1 / 255, 1e-9)] == [1, 1, 10, 100, 50000]
    assert torch.tensor([_factor(x) * x for x in (0.001, 0.01, 0.2)]).max() <= 0.5
