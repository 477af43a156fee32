"""What a run says beside its rows: classes, warnings, leaderboard entries, examples, targets, progress."""

import csv
import json
import warnings

import pytest
import torch

from regfast.attacks import FGSM, FMN, PGD, AutoAttack
from regfast.attacks.checks import ZeroGradientWarning
from regfast.evaluation import evaluate
from regfast.evaluation import run as run_module
from regfast.evaluation.classes import class_rows, read_classes
from regfast.evaluation.examples import read_examples
from regfast.evaluation.targets import target_classes
from regfast.evaluation.within import Within, stage_cost
from regfast.runs.errors import InputError
from tests.evaluation.toy import RowwiseLinear, Toy


class Broken(Toy):
    """Some samples that cannot be used, in three ways."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        if index in (3, 4):
            raise OSError("truncated")
        if index == 5:
            return image + 1, label
        return image, 17 + index if index in (7, 8) else label


def run(out, data=None, attacks=None, model=None, **options):
    attacks = attacks or [PGD("linf", eps, steps=5) for eps in (0.02, 0.1)]
    model = model or RowwiseLinear().eval()
    options = {"progress": False, "device": "cpu"} | options
    return evaluate(model, data or Toy(), attacks, out=out, **options)


def test_nothing_is_left_out_quietly(tmp_path):
    summary = run(tmp_path, Broken()).summary
    assert summary["usable"] == 55
    assert summary["unusable"] == {"label … is outside [0, 4)": 2, "pixels in …, outside [0, 1]": 1, "unreadable": 2}
    assert summary["warnings"][0].startswith("5 of 60 samples are left out")
    said = (tmp_path / "summary.md").read_text()
    assert said.count("- `PGD(norm='linf', eps, steps=5,") == 1, "each attack once, without its radius"
    assert said.index("**Warning:** 5 of 60 samples") < said.index("| attack |")


def test_a_model_that_guesses_is_named(tmp_path):
    data = Toy()
    data.labels = (data.labels + 2) % 4  # numbered otherwise than the model's classes
    (warning,) = run(tmp_path, data).summary["warnings"]
    assert "no better than guessing among 4 classes" in warning
    assert not run(tmp_path / "right").summary["warnings"]


def test_classes_add_up_to_the_run(tmp_path):
    data = Toy()
    data.classes = ("=cat", "dog", "bird", "frog")
    result = run(tmp_path, data)
    rows = class_rows(result.rows(), data.classes)
    assert [row.name for row in rows] == list(data.classes) and sum(row.samples for row in rows) == 60
    assert sum(row.clean for row in rows) == result.summary["clean"]["count"]
    assert sum(row.robust for row in rows) == result.summary["attacks"][-1]["robust_accuracy"]["count"]
    read = read_classes(tmp_path)
    assert [(row.label, row.robust) for row in read] == [(row.label, row.robust) for row in rows]
    with (tmp_path / "classes.csv").open() as file:
        assert next(csv.DictReader(file))["name"] == "'=cat", "no spreadsheet takes a class for a formula"


def test_only_autoattack_becomes_a_leaderboard_entry(tmp_path):
    attacks = [FGSM("linf", 8 / 255), AutoAttack("linf", 8 / 255)]
    summary = run(tmp_path, attacks=attacks, limit=8).summary
    (path,) = tmp_path.glob("leaderboard*.json")
    assert path.name == "leaderboard-Linf-8of255.json"
    entry = json.loads(path.read_text())
    share = next(row for row in summary["attacks"] if row["attack"] == "autoattack")["robust_accuracy"]["value"]
    assert entry["eps"] == "8/255" and entry["autoattack_acc"] == f"{100 * share:.2f}"
    assert entry["clean_acc"] == f"{100 * summary['clean']['value']:.2f}" and entry["number_forward_passes"] == 1


def test_examples_are_the_images_of_the_run(tmp_path):
    model, data = RowwiseLinear().eval(), Toy()
    result = run(tmp_path, data, model=model)
    examples = read_examples(tmp_path)
    rows = {(row["sample"], row["eps"]): row for row in result.rows().to_pylist()}
    assert 1 <= len(examples) <= 6
    for one in examples:
        row = rows[one.sample, one.eps]
        assert row["success"] and not row["carried"] and one.prediction == row["prediction"] != one.label
        assert torch.allclose(one.clean, data[one.sample][0], atol=1e-3)
        assert float((one.adversarial - one.clean).abs().max()) <= one.eps + 1e-3
        logits = model(one.clean.unsqueeze(0)).detach().softmax(1)
        assert one.clean_confidence == pytest.approx(float(logits.max()), abs=5e-3)


def test_targets_are_classes_to_reach(tmp_path):
    result = run(tmp_path / "two", Toy(), [PGD("linf", 0.5, steps=20, loss="margin")], target=2)
    rows = result.rows().to_pylist()
    of_target = [row for row in rows if row["label"] == 2]
    assert of_target and all(row["status"] == "its label is the target" for row in of_target)
    assert all(row["prediction"] == 2 for row in rows if row["success"]) and any(row["success"] for row in rows)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["identity"]["target"] == 2
    assert "Targeted (2)" in (tmp_path / "two" / "summary.md").read_text()
    run(tmp_path / "auto", Toy(4), [AutoAttack("linf", 0.1)], target="next")
    assert not list((tmp_path / "auto").glob("leaderboard*")), "leaderboards don't quote targeted attacks"
    with pytest.raises(InputError, match="target must be below 4"):
        run(tmp_path / "none", target=4)
    with pytest.raises(InputError, match="one of random, next, least-likely"):
        run(tmp_path / "none", target="likely")
    assert not (tmp_path / "none").exists()


def test_target_rules():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels, ids = torch.tensor([2, 2]), torch.tensor([5, 9])
    assert target_classes("next", labels, ids, logits, 0).tolist() == [0, 0]
    assert target_classes("least-likely", labels, ids, logits, 0).tolist() == [1, 0]
    assert target_classes(1, labels, ids, logits, 0).tolist() == [1, 1]
    many = torch.zeros(300, dtype=torch.int64)
    drawn = target_classes("random", many, torch.arange(300), torch.zeros(300, 3), 1)
    assert set(drawn.tolist()) == {1, 2}
    again = target_classes("random", many[:1], torch.tensor([250]), torch.zeros(1, 3), 1)
    assert int(again) == int(drawn[250]), "keyed by seed and sample alone"


@pytest.mark.parametrize(
    ("options", "said"),
    [({"precision": "fp8"}, "precision"), ({"lanes": 0}, "lanes"), ({"chunk_size": 0}, "chunk_size")],
)
def test_options_are_checked_before_anything_is_written(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_model_that_takes_no_such_image_writes_nothing(tmp_path):
    with pytest.raises(InputError, match=r"takes no image of shape \(3, 4, 4\)"):
        run(tmp_path / "run", model=RowwiseLinear(pixels=64).eval())
    assert not (tmp_path / "run").exists()


class Steps(RowwiseLinear):
    """Sees few levels a pixel, so that it has no gradient."""

    def forward(self, images):
        return super().forward((images * 16).round() / 16)


@pytest.mark.filterwarnings("ignore::regfast.attacks.AttackWarning")
def test_doubts_about_the_figures_stand_before_them(tmp_path):
    attacks = [AutoAttack("linf", 0.1, version="fast"), PGD("linf", 0.1, steps=3)]
    result = run(tmp_path, model=Steps().eval(), attacks=attacks, chunk_size=20)
    (fast,) = (row for row in result.summary["attacks"] if row["attack"] == "autoattack-fast")
    late = [row for row in result.rows().to_pylist() if row["late"]]
    assert len(late) == fast["late"] > 0 and all(row["stage"] in ("fab-t", "square") for row in late)
    told = result.summary["warnings"]
    (flat,) = (text for text in told if text.startswith("The gradient of the ce loss is zero"))
    square, settle = (text for text in told if text.startswith("autoattack-fast, linf, eps 0.1: "))
    assert f"broke {fast['stages']['square']} of 60 samples" in square and f"{fast['late']} of" in settle
    said = (tmp_path / "summary.md").read_text()
    assert all(said.index(text) < said.index("| attack |") for text in (flat, square, settle))


def test_the_attacks_warnings_are_pythons_too(tmp_path):
    with pytest.warns(ZeroGradientWarning), pytest.warns(UserWarning, match="of the user's"):
        run(tmp_path, model=lambda images: warnings.warn("of the user's", stacklevel=1) or Steps()(images))


def test_an_attack_without_eps_is_told_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"fmn has no eps.*--eps.*robust_accuracy_curve"):
        run(tmp_path / "run", attacks=[FMN("linf")])
    assert not (tmp_path / "run").exists()


def test_progress_counts_what_is_done_against_what_is_left_at_most():
    told = []
    attack = AutoAttack("linf", 0.02, version="fast")
    watch = Within([[attack]], 30, 10, told.append)
    first, *later = (stage_cost(stage) for stage in attack.stages())
    watch.enter(attack)
    watch.begin("first", 10)
    for _ in range(9):
        watch.decided(True)
    watch.moved(0.5, 2.0)
    assert told == [0, pytest.approx(30 * 2 * first / (2.5 * first + sum(later)))]
    watch.decided(False)
    watch.moved(0.0, 2.5)
    watch.begin("second", 1)
    assert told[2:] == [pytest.approx(30 * 2.5 * first / (2.5 * first + sum(later)))] * 2


def test_progress_inside_a_chunk_never_goes_back():
    told = []
    groups = [[PGD("linf", 0.01, steps=5), PGD("linf", 0.02, steps=5)], [AutoAttack("linf", 0.02, version="fast")]]
    watch = Within(groups, 12, 12, told.append)
    model, data = RowwiseLinear().eval(), Toy(12)
    for group in groups:
        alive = torch.arange(12)
        for attack in group:
            watch.enter(attack)
            alive = alive[attack.run(model, data.images[alive], data.labels[alive], progress=watch).robust]
    assert told == sorted(told) and 0 < told[3] < told[-1] <= 12


def test_a_resumed_runs_line_counts_the_samples_before(tmp_path, capsys, monkeypatch):
    work, whole = run_module.attack_chunk, run(tmp_path / "whole", chunk_size=4)
    chunks = []

    def stops(*arguments):
        chunks.append(1)
        if len(chunks) == 3:
            raise KeyboardInterrupt
        return work(*arguments)

    monkeypatch.setattr(run_module, "attack_chunk", stops)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", chunk_size=4)
    monkeypatch.setattr(run_module, "attack_chunk", work)
    capsys.readouterr()
    run(tmp_path / "run", chunk_size=4, progress=True)
    robust = whole.summary["attacks"][-1]["robust_accuracy"]
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"robust {robust['value']:.1%} [{robust['low']:.1%}, {robust['high']:.1%}]" in last
