import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from regfast.paper import paper_config, run_paper
from regfast.paper.parts import PARTS, SCHEMAS
from regfast.paper.pieces import pieces_of, read_piece
from regfast.report import write_report
from regfast.runs import InputError, Silent
from regfast.study import Sweep
from regfast.training import Recipe


def tiny(**options):
    """Two regularizers, two epochs, 48 images, one attack: seconds."""
    config = paper_config("smoke", ["digits"], ["small-cnn"], regularizers=["hard", "smoothing"], limit=48, **options)
    study = config.main
    kept = tuple(attack for attack in study.attacks if attack.id in ("pgd_linf_weak", "autoattack-fast_linf_weak"))
    study = replace(study, recipe=Recipe(epochs=2), attacks=kept, sweep=Sweep("linf", (0.1,), 2))
    parts = {**config.parts, "planes": {**config.parts["planes"], "images": 40, "epochs": 2}}
    return replace(config, studies=(study,), parts=parts)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    assert run_paper(tiny(), folder, command="regfast paper …")
    return folder


def contents(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in SCHEMAS}


def frame(folder, name):
    return pq.read_table(folder / f"{name}.parquet").to_pandas()


def test_result_files_follow_the_schema(run_dir):
    config = json.loads((run_dir / "config.json").read_text())
    assert config["kind"] == "paper" and config["command"] == "regfast paper …"
    assert config["studies"] == [{"folder": "studies/digits-small-cnn", "dataset": "digits", "model": "small-cnn"}]
    for part in PARTS:
        found = list(frame(run_dir, part.name))
        assert set(part.columns) <= set(found) if part.name == "collapse" else list(part.columns) == found, part.name
    planes = frame(run_dir, "planes")
    assert set(planes.kind) == {"weight", "mean", "center", "feature", "perturbed"}
    per_model = planes.groupby(["regularizer", "bias"])
    assert per_model.ngroups == 4
    for (_, bias), rows in per_model:
        assert (rows.kind == "feature").sum() == 40 and (rows.kind == "center").sum() == 10
        assert set(rows[rows.kind == "perturbed"]["sample"]) <= set(range(40))
        assert (rows[rows.kind == "weight"].offset != 0).all() == bias
    heads = frame(run_dir, "theorem1")
    assert set(heads["head"]) == {"etf-10", "random", "random, no bias", "hard-seed0", "smoothing-seed0"}
    etf = heads[heads["head"] == "etf-10"]
    assert np.allclose(etf.norm, etf.closed_form, rtol=1e-8)
    for _, rows in heads.groupby(["head", "label"]):  # what always holds: the projection never grows with smoothing
        assert (np.diff(rows.sort_values("smoothing").projection) <= 1e-6).all()


def test_parts_agree_with_the_study_and_with_each_other(run_dir):
    samples = frame(run_dir / "studies" / "digits-small-cnn", "samples")
    boundary = frame(run_dir, "boundary").merge(samples, on=["regularizer", "seed", "sample"])
    assert len(boundary) == len(samples) and (boundary.correct_x == boundary.correct_y).all()
    right = boundary[boundary.correct_x]
    assert (right.distance > 0).all() and (right.gradient_distance >= right.distance * (1 - 1e-9)).all()
    swaps = frame(run_dir, "counterfactual")
    own = swaps[swaps.norms == swaps.directions].set_index("directions")
    accuracy = samples.groupby("regularizer").correct.mean()
    for name in ("hard", "smoothing"):  # a model with its own norms is the model
        assert own.accuracy[name] == pytest.approx(accuracy[name])
    assert (swaps.asr <= swaps.asr_exact + 1e-9).all()  # no attack on the features is stronger than the exact one
    predictors = frame(run_dir, "predictors").set_index(["regularizer", "attack", "measure", "predictor"]).value
    for key in predictors.index:  # a lead is the difference of two AUCs
        if key[2] == "lead" and np.isfinite(predictors[key]):
            own, v_opt = (predictors[(*key[:2], "auc", name)] for name in (key[3], "v_opt"))
            assert predictors[key] == pytest.approx(own - v_opt)
    scaling = frame(run_dir, "scaling")
    assert (scaling[scaling.kind == "temperature"].changed == 0).all()
    at_one = scaling[scaling.scale == 1].groupby("regularizer").ece.agg(["min", "max"])
    assert np.allclose(at_one["min"], at_one["max"])
    smooth = frame(run_dir, "smooth")
    assert ((smooth.error_low <= smooth.error_high) & (smooth.error <= 1)).all()
    radius = frame(run_dir, "radius")
    assert (radius.groupby(["regularizer", "label"]).angle.first() < 0.1).all()  # near r → 0 it hardly turns
    transfer = frame(run_dir, "transfer")
    assert len(transfer) == 2 * 2 * 2
    collapse = frame(run_dir, "collapse")
    assert set(collapse.epoch) == {1, 2} and len(collapse) == 4
    last = collapse[collapse.epoch == 2].set_index("regularizer")
    curves = frame(run_dir / "studies" / "digits-small-cnn", "curves")
    assert (last.rms_out_of_span > 0).all() and len(curves) == len(collapse)
    identity = ["regularizer", "seed", "sample"]
    attacked = frame(run_dir, "feature_attack").merge(samples[[*identity, "correct"]], on=identity)
    assert len(attacked) == len(samples) and (attacked.correct_x == attacked.correct_y).all()
    for radius in ("straight", "cross_entropy", "margin"):  # the exact distance is the bound of every attack
        assert (attacked[radius] >= attacked.exact * (1 - 1e-9)).all()
        assert (attacked[attacked.correct_x][radius] > 0).all() and (attacked[~attacked.correct_x][radius] == 0).all()


def test_a_finished_run_is_left_alone_and_the_page_is_made(run_dir):
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert not run_paper(tiny(), run_dir)
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    text = write_report(run_dir).read_text(encoding="utf-8")
    for name in (
        "plane",
        "gradient-field",
        "theorem1",
        "scaling",
        "radius",
        "boundary",
        "feature-attack",
        "counterfactual",
        "transfer",
    ):
        assert f'id="{name}"' in text
    assert "dataset = digits" in text and re.search(r"ridge\D+0\.001", text)


class StopAfter(Silent):
    """Ctrl-C at the n-th step."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, steps=1):
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_anywhere_and_resumed_is_the_same_run(run_dir, tmp_path):
    for steps in (6, 25, 25):  # in the study, among the planes, among the models
        with pytest.raises(KeyboardInterrupt):
            run_paper(tiny(), tmp_path, progress=StopAfter(steps))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("parts/*/*.parquet")}
    assert kept
    assert run_paper(tiny(), tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items() if ".tmp" not in path.parent.name)
    assert contents(tmp_path) == contents(run_dir)  # so: the same seed twice gives the same bytes
    assert not list(tmp_path.rglob("*.tmp"))


def test_progress_adds_up(run_dir, tmp_path):
    class Count(Silent):
        def start(self, total, done):
            self.total, self.done = total, done

        def advance(self, steps=1):
            self.done += steps

    count, folder = Count(), tmp_path / "run"
    shutil.copytree(run_dir, folder)
    shutil.rmtree(folder / "parts" / "heads-seed0")
    assert run_paper(tiny(), folder, progress=count)
    assert count.done == pytest.approx(count.total)
    assert contents(folder) == contents(run_dir)


def test_a_piece_that_was_removed_meanwhile_is_named(run_dir, tmp_path):
    """Its rows would be missing in the tables, and nobody would say so."""
    piece = pieces_of(tiny())[0]
    assert read_piece(run_dir, piece)
    with pytest.raises(InputError, match=r"heads-seed0 is missing: the same command makes it again"):
        read_piece(tmp_path, piece)


def test_another_run_in_the_same_folder_is_refused(run_dir):
    with pytest.raises(ValueError, match=r"another configuration \(planes\.label: 3 there, 5 here\)"):
        run_paper(tiny(label=5), run_dir)


def test_a_label_beyond_the_classes_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="label must be below 10"):
        run_paper(tiny(label=10), tmp_path / "run")
    assert not (tmp_path / "run").exists()
