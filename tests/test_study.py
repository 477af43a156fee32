import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from regfast.attacks import PGD
from regfast.data import Subset, load_splits
from regfast.models import load_model
from regfast.report import write_report
from regfast.runs import Silent
from regfast.runs.folder import differences
from regfast.runs.workers import cores, run_all
from regfast.study import AttackSetting, StudyConfig, Sweep, named_regularizers, run_study, sized
from regfast.study.measure import measure_attack, measure_clean, measure_sweep
from regfast.study.metrics import MEANS, metrics
from regfast.training import Recipe

RESULTS = ("metrics.json", "samples.parquet", "sweep.parquet", "curves.parquet")


def tiny(**options):
    defaults = {
        "recipe": Recipe(epochs=2),
        "regularizers": {"hard": {}, "mixup": {"alpha": 0.5}},
        "sweep": Sweep("linf", (0.02, 0.1), 3),
        "limit": 50,
    }
    return sized("smoke", **{**defaults, **options})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    assert run_study(tiny(seeds=(0, 3)), folder, command="regfast study …")
    return folder


OWN = """
from regfast.training import Regularizer


class Shrinking(Regularizer):
    def __init__(self, strength: float = 0.1):
        self.strength = strength

    def loss(self, logits, target, features, context):
        loss, _ = context.cross_entropy(logits, target, features)
        return loss + self.strength * features.square().sum(1).mean()
"""


def test_a_users_own_regularizer_and_two_strengths_of_one(tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    specs = ["hard", "own_rules:Shrinking:strength=1.0", "maxsup:strength=0.1", "maxsup:strength=0.5", "a=maxsup"]
    chosen = named_regularizers(specs)
    assert list(chosen) == ["hard", "Shrinking", "maxsup-strength=0.1", "maxsup-strength=0.5", "a"]
    config = tiny(regularizers=chosen, limit=20, sweep=Sweep("linf", (0.1,), 1), recipe=Recipe(epochs=1))
    assert run_study(config, tmp_path / "run", workers=2)
    assert StudyConfig.read(tmp_path / "run") == config and not run_study(config, tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())["regularizers"]
    assert list(figures) == list(chosen)
    assert figures["Shrinking"]["rms"]["mean"] < 0.5 * figures["hard"]["rms"]["mean"]
    assert write_report(tmp_path / "run").is_file()
    assert list(sized("smoke").regularizers) == ["hard", "smoothing", "mixup", "cutmix"]  # what runs by default


def contents(folder):
    return {name: (folder / name).read_bytes() for name in RESULTS}


def test_result_files_follow_the_schema(run_dir):
    config = json.loads((run_dir / "config.json").read_text())
    figures = json.loads((run_dir / "metrics.json").read_text())
    samples = pq.read_table(run_dir / "samples.parquet").to_pandas()
    assert config["regularizers"] == {"hard": {}, "mixup": {"alpha": 0.5}} and config["seeds"] == [0, 3]
    assert config["command"] == "regfast study …"
    assert set(config["environment"]) == {"python", "torch", "regfast", "machine", "threads", "device", "backend"}
    assert len(samples) == 2 * 2 * 50 == len(samples.drop_duplicates(["regularizer", "seed", "sample"]))
    ids = [attack["id"] for attack in config["attacks"]]
    for id_ in ids:
        assert {f"success_{id_}", f"toward_origin_{id_}", f"radial_{id_}", f"tangential_{id_}"} <= set(samples)
        assert not samples.loc[~samples.correct, f"success_{id_}"].any()
    for name, own in samples.groupby("regularizer"):
        found = figures["regularizers"][name]
        assert found["accuracy"]["mean"] == pytest.approx(own.correct.mean())
        assert found["cosine"]["mean"] == pytest.approx(own.cosine.mean(), rel=1e-5)
        by_seed = own.groupby("seed")
        for id_ in ids:
            rates = by_seed[f"success_{id_}"].sum() / by_seed.correct.sum()
            assert found[f"asr_{id_}"]["per_seed"] == pytest.approx(rates.tolist())
        for figure in found.values():
            assert figure["low"] <= figure["high"] and len(figure["per_seed"]) == 2
    sweep = pq.read_table(run_dir / "sweep.parquet").to_pandas()
    assert len(sweep) == 2 * 2 * 2 and (sweep.asr == sweep.success / sweep.correct).all()
    curves = pq.read_table(run_dir / "curves.parquet").to_pandas()
    assert curves.groupby(["regularizer", "seed"]).epoch.apply(list).tolist() == [[1, 2]] * 4
    assert {"loss", "accuracy", "rms", "cosine", "cosine_in_span", "learning_rate"} <= set(curves)
    model = load_model("small-cnn", run_dir / "checkpoints" / "mixup-seed3.safetensors")
    test = load_splits("noisy-digits").limited(50).test
    own = samples[(samples.regularizer == "mixup") & (samples.seed == 3)].sort_values("sample")
    with torch.no_grad():
        assert model(test.batch(torch.arange(50))).argmax(1).tolist() == own.prediction.tolist()


def test_a_finished_study_is_left_alone(run_dir):
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    assert not run_study(tiny(seeds=(0, 3)), run_dir)
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}


class StopAfter(Silent):
    """Ctrl-C at the n-th step."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, steps=1):
        self.left -= steps
        if self.left < 1e-9:
            raise KeyboardInterrupt


def test_interrupted_anywhere_and_resumed_is_the_same_study(run_dir, tmp_path):
    config = tiny(seeds=(0, 3))
    for steps in (1, 5, 14, 3):  # in training, in an attack, in the next unit's sweep, in training
        with pytest.raises(KeyboardInterrupt):
            run_study(config, tmp_path, progress=StopAfter(steps))
    finished = tmp_path / "checkpoints" / "hard-seed0.safetensors"
    kept = finished.stat().st_mtime_ns
    assert run_study(config, tmp_path)
    assert finished.stat().st_mtime_ns == kept
    assert contents(tmp_path) == contents(run_dir)  # so: the same seed twice gives the same bytes
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_workers_give_the_same_study(tmp_path):
    config, threads, count = tiny(recipe=Recipe(epochs=1), limit=20), torch.get_num_threads(), Count()
    torch.set_num_threads(max(1, cores() // 2))  # as many as each worker has
    try:
        run_study(config, tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    run_study(config, tmp_path / "two", workers=2, progress=count)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert count.done == pytest.approx(count.total)


def _fail(piece, progress):
    if piece == "bad":
        raise ValueError("a bad piece")
    if piece == "dead":
        os._exit(7)


def test_errors_of_workers():
    with pytest.raises(ValueError, match="a bad piece") as caught:
        run_all(_fail, ["good", "bad"], 2, Silent())
    assert "in _fail" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match=r"exit status.*7"):
        run_all(_fail, ["good", "dead"], 2, Silent())
    with pytest.raises(ValueError, match="workers"):
        run_all(_fail, ["good"], 0, Silent())


class Count(Silent):
    def start(self, total, done):
        self.total, self.done = total, done

    def advance(self, steps=1):
        self.done += steps


def test_progress_adds_up(tmp_path):
    config = tiny(regularizers={"hard": {}})
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path, progress=StopAfter(4))
    count = Count()
    run_study(config, tmp_path, progress=count)
    assert count.total == 2 + 6 + 2 == pytest.approx(count.done)


def test_other_options_are_refused_by_name(run_dir):
    other = replace(tiny(seeds=(0, 3)), recipe=Recipe(epochs=3), regularizers={"hard": {}, "mixup": {"alpha": 0.9}})
    said = r"recipe\.epochs: 2 there, 3 here; regularizers\.mixup\.alpha: 0\.5 there, 0\.9 here"
    with pytest.raises(ValueError, match=said):
        run_study(other, run_dir)


def test_an_unfinished_study_is_not_continued_by_another_torch(tmp_path):
    config = tiny(regularizers={"hard": {}})
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path, progress=StopAfter(1))
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["environment"]["torch"] = "1.0"
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r'another configuration \(torch: "1.0" there'):
        run_study(config, tmp_path)


def test_damaged_files_are_named(tmp_path):
    config = tiny(regularizers={"hard": {}})
    run_study(config, tmp_path)
    (tmp_path / "metrics.json").unlink()
    part = tmp_path / "parts" / "hard-seed0" / "curves.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"curves\.parquet is damaged"):
        run_study(config, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        run_study(config, tmp_path)


def test_missing_data_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="npz"):
        run_study(sized("smoke", "npz", data_root=str(tmp_path / "none.npz")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_config_round_trip(run_dir):
    assert StudyConfig.read(run_dir) == tiny(seeds=(0, 3))
    with pytest.raises(FileNotFoundError, match="config"):
        StudyConfig.read(run_dir / "checkpoints")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"regularizers": {"dropout": {}}}, "dropout"),
        ({"regularizers": {}}, "at least one"),
        ({"regularizers": {"../up": {"regularizer": "hard"}}}, "named by letters"),
        ({"regularizers": {"hard": {"alpha": 1}}}, "hard takes no alpha"),
        ({"limit": 0}, "limit"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_sizes_and_differences():
    assert sized("full").seeds == (0, 1, 2) and sized("full").limit is None
    assert sized("full", "cifar10", data_root="x").model == "resnet20"
    with pytest.raises(ValueError, match="full, small, smoke"):
        sized("huge")
    with pytest.raises(ValueError, match="ascending"):
        Sweep("linf", (0.2, 0.1), 3)
    found = differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 0})
    assert found == [
        "b.c: 2 there, 3 here",
        "d: null there, 0 here",
    ]


@pytest.fixture(scope="module")
def measured(run_dir):
    model = load_model("small-cnn", run_dir / "checkpoints" / "hard-seed0.safetensors")
    splits = load_splits("noisy-digits")
    return model, splits


def test_sweep_carries_what_fell(measured):
    model, test = measured[0], Subset(measured[1].test, torch.arange(60))
    steps = []
    rows = measure_sweep(model, test, Sweep("linf", (0.01, 0.05, 0.5), 4), 0, lambda: steps.append(1))
    alone = PGD("linf", 0.01, 4).run(model, test.batch(torch.arange(60)), test.labels, seed=0)
    assert rows[0]["success"] == int(alone.success.sum()) and rows[0]["correct"] == int(alone.clean.sum())
    rates = [row["asr"] for row in rows]
    assert rates == sorted(rates) and rates[-1] > 0.9 and len(steps) == 3


def test_attack_columns(measured, monkeypatch):
    model, test = measured[0], Subset(measured[1].test, torch.arange(60))
    setting, images = tiny().attacks[3], test.batch(torch.arange(60))
    columns = measure_attack(model, test, setting, 0)
    result = setting.build().run(model, images, test.labels, seed=0)
    clean = result.clean.numpy()
    assert np.array_equal(columns[f"success_{setting.id}"], result.success.numpy())
    for name in ("toward_origin", "radial", "tangential"):
        assert np.array_equal(np.isnan(columns[f"{name}_{setting.id}"]), ~clean)
    with torch.no_grad():
        moved = (model.features(result.images) - model.features(images)).norm(dim=1).numpy()
    length = np.hypot(columns[f"radial_{setting.id}"], columns[f"tangential_{setting.id}"])
    np.testing.assert_allclose(length[clean], moved[clean], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("regfast.study.measure._CHUNK", 17)  # in pieces: the same draws, the same answers
    pieces = measure_attack(model, test, setting, 0)
    assert np.array_equal(pieces[f"success_{setting.id}"], columns[f"success_{setting.id}"])
    rows = measure_sweep(model, test, Sweep("linf", (0.01, 0.05), 4), 0, lambda: None)
    assert [row["eps"] for row in rows] == [0.01, 0.05]


def test_clean_columns(measured):
    model, splits = measured
    columns, rest = measure_clean(model, splits.test, splits.holdout)
    probabilities = torch.from_numpy(rest["logits"]).double().softmax(1)
    labels = splits.test.labels
    np.testing.assert_allclose(columns["confidence"], probabilities.max(1).values, rtol=1e-5)
    np.testing.assert_allclose(columns["loss"], -probabilities.log()[torch.arange(448), labels], rtol=1e-4, atol=1e-6)
    expected = ((probabilities - torch.eye(10)[labels]) ** 2).sum(1)
    np.testing.assert_allclose(columns["brier"], expected, rtol=1e-5, atol=1e-12)
    assert 0.01 <= rest["temperature"][0] <= 100 and rest["gap"][0] < 1e-4


def test_a_model_that_is_never_right_has_no_asr():
    count = 30
    column = np.full(count, 0.5)
    names = ("loss", "brier", *MEANS)
    samples = dict.fromkeys(names, column) | {
        "label": np.zeros(count, np.int64), "correct": np.zeros(count, bool), "success_a": np.zeros(count, bool)
    }  # fmt: skip
    rest = {"logits": np.tile([0.0, 1.0], (count, 1)), "temperature": np.ones(1), "radius": np.ones(1)}
    found = metrics([samples], [rest], ["a"])
    assert found["accuracy"]["mean"] == 0 and np.isnan(found["asr_a"]["mean"])
    assert found["nll"]["mean"] == found["nll"]["low"] == 0.5


@pytest.mark.parametrize(
    ("spec", "norm", "name"),
    [
        ("autoattack-fast", "linf", "autoattack-fast_linf_weak"),
        ("apgd:steps=5,loss=dlr", "l2", "apgd-steps=5-loss=dlr_l2_weak"),
        ("ddn:steps=3", "l2", "ddn-steps=3_l2_weak"),
        ("regfast.attacks:FMN:steps=3", "linf", "regfast.attacks-FMN-steps=3_linf_weak"),
    ],
)
def test_a_study_takes_every_attack(spec, norm, name):
    setting = AttackSetting(spec, norm, 0.05, None, None, "weak")
    attack = setting.build()
    assert setting.id == name and attack.options["eps"] == 0.05 and attack.norm.name == norm
    with pytest.raises(ValueError, match="no attack is called"):
        AttackSetting("nothing", norm, 0.05, None, None, "weak")
    with pytest.raises(ValueError, match="not linf"):
        AttackSetting("ddn", "linf", 0.05, None, None, "weak")
