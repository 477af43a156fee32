import numpy as np
import pytest
import torch

from regfast.attacks import PGD
from regfast.evaluation import compare, evaluate
from regfast.evaluation.compare import comparison_markdown, plot_comparison
from tests.evaluation.toy import RowwiseLinear, Toy


def run(out, scale=1.0, data=None, eps=(0.005, 0.02)):
    model = RowwiseLinear().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        model.weight += (scale - 1) * torch.randn(model.weight.shape, generator=generator)
    attacks = [PGD("linf", e, steps=5) for e in eps]
    return evaluate(model, data or Toy(), attacks, out=out, progress=False, device="cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return run(folder / "a"), run(folder / "b", scale=1.3), run(folder / "c", eps=(0.02,))


def test_differences_are_those_of_the_rows(runs):
    first, second, _ = runs
    compared = compare([first.folder, second.folder])
    assert [c.figure for c in compared] == [
        "clean accuracy",
        "robust accuracy, pgd linf 0.005",
        "robust accuracy, pgd linf 0.02",
    ]
    for c, eps in zip(compared[1:], (0.005, 0.02), strict=True):
        of = [{r["sample"]: r["robust"] for r in run.rows().to_pylist() if r["eps"] == eps} for run in (first, second)]
        one, other = (np.array([rows[i] for i in range(60)]) for rows in of)
        assert c.n == 60
        assert c.difference == pytest.approx(other.mean() - one.mean())
        assert c.low <= c.difference <= c.high
        assert (c.only_first, c.only_second) == (int((one & ~other).sum()), int((~one & other).sum()))
        assert 0 <= c.p_value <= 1
    assert any(c.only_first != c.only_second for c in compared)


def test_a_run_against_itself_does_not_differ(runs):
    for c in compare([runs[0].folder, runs[0].folder]):
        assert c.difference == c.low == c.high == 0
        assert c.p_value == 1


def test_figures_of_one_run_alone_are_left_out(runs):
    assert [c.figure for c in compare([runs[0].folder, runs[2].folder])][1:] == ["robust accuracy, pgd linf 0.02"]


def test_table_and_plot(runs, tmp_path):
    compared = compare([run.folder for run in runs])
    text = comparison_markdown(compared)
    assert text.count("\n| b |") == 3 and text.count("\n| c |") == 2
    plot_comparison(compared, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_other_data_and_missing_runs_are_refused(runs, tmp_path):
    other = run(tmp_path / "other", data=Toy(n=30))
    with pytest.raises(ValueError, match="other data"):
        compare([runs[0].folder, other.folder])
    with pytest.raises(ValueError, match="at least two"):
        compare([runs[0].folder])
    with pytest.raises(FileNotFoundError, match="holds no evaluation"):
        compare([runs[0].folder, tmp_path])
