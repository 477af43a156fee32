"""The commands evaluate and compare as a user types them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from regfast.cli import run
from regfast.evaluation import worker


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    generator = np.random.default_rng(0)
    np.savez(path, images=generator.integers(0, 256, (24, 8, 8, 1), np.uint8), labels=generator.integers(0, 10, 24))
    return path


def command(images, out, *more):
    return [
        "evaluate",
        "--model",
        "small-cnn",
        "--dataset",
        "npz",
        "--data-root",
        str(images),
        "--out",
        str(out),
        *more,
    ]


def words(capsys):
    """What was printed, however wide its columns are."""
    return " ".join(capsys.readouterr().out.split())


def test_evaluate_then_compare(images, tmp_path, capsys):
    options = ["--attack", "pgd:steps=3", "--attack", "fgsm", "--eps", "1/255,4/255", "--device", "cpu"]
    assert run(command(images, tmp_path / "a", *options)) == 0
    said = words(capsys)
    assert "no normalization inside" in said and "24 of 24 images" in said and "pgd linf 1/255" in said
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert [(row["attack"], round(row["eps"] * 255)) for row in summary["attacks"]] == [
        ("fgsm", 1),
        ("fgsm", 4),
        ("pgd", 1),
        ("pgd", 4),
    ]
    assert run(command(images, tmp_path / "a", *options)) == 0, "a finished run is shown again"
    capsys.readouterr()
    assert run(["compare", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(tmp_path / "both")]) == 0
    assert "McNemar" in capsys.readouterr().out
    assert (tmp_path / "both" / "comparison.png").exists()


def test_a_folder_of_another_kind_is_refused_before_anything_is_looked_at(images, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert run(command(images, tmp_path, "--attack", "pgd", "--eps", "0.1")) == 2
    said = capsys.readouterr()
    assert not said.out and "holds a run of another kind (study, not evaluation)" in said.err


def test_steps_are_recorded_where_that_is_asked_for(images, tmp_path, monkeypatch, capsys):
    asked = []

    class Watched(worker.PreparedModel):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            asked.append(self.cuda_graphs)

    monkeypatch.setattr(worker, "PreparedModel", Watched)
    options = ["--attack", "fgsm", "--eps", "1/255", "--device", "cpu"]
    for given in ([], ["--cuda-graphs", "auto"], ["--cuda-graphs", "on"]):
        assert run(command(images, tmp_path / "".join(given), *options, *given)) == 0
    assert asked == [False, None, True]
    capsys.readouterr()
    assert run(command(images, tmp_path / "a", *options, "--cuda-graphs", "always")) == 2
    assert "'auto'" in capsys.readouterr().err


def test_plan_runs_nothing(images, tmp_path, capsys):
    assert run([*command(images, tmp_path / "a", "--attack", "autoattack", "--eps", "0.01"), "--plan"]) == 0
    assert "autoattack linf 0.01" in words(capsys)
    assert not (tmp_path / "a").exists()


def test_a_factory_of_the_users_own(images, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ["evaluate", "--model", "mine:make", "--dataset", "npz", "--data-root", str(images), "--attack", "fgsm"]
    assert run([*options, "--out", "run", "--eps", "0.1"]) == 0
    assert "images in [0, 1] as they are" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["model"]["name"] == "mine:make"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--attack", "nonsense"], "no attack is called 'nonsense'"),
        (["--attack", "pgd:stepz=3"], "pgd takes no stepz"),
        (["--attack", "pgd:steps"], "NAME=VALUE"),
        (["--eps", "much"], "--eps expects numbers"),
        (["--model", "no_such_module:make"], "no_such_module"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(images, tmp_path, capsys, options, said):
    assert run([*command(images, tmp_path / "a"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_out_is_needed(images, capsys):
    assert run(["evaluate", "--model", "small-cnn", "--dataset", "npz", "--data-root", str(images)]) == 2
    assert "--out is needed" in capsys.readouterr().err


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Two class folders, and a model of three classes that has its own way of preparing images."""
    for place, folder in enumerate(("cat", "dog")):
        (tmp_path / "photographs" / folder).mkdir(parents=True)
        pixels = np.random.default_rng(place).integers(0, 256, (24, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / folder / "one.png")
    (tmp_path / "prepared_model.py").write_text(
        "import torch\nfrom regfast.models import Preprocess\n\n"
        "def make():\n    torch.manual_seed(0)\n"
        "    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3)).eval()\n"
        "    model.preprocess = Preprocess(20, 16, 'bicubic')\n    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    return ["--model", "prepared_model:make", "--dataset", "imagefolder", "--data-root", "photographs"]


def test_folders_that_are_some_of_the_models_classes_need_a_map(photographs, tmp_path, capsys):
    options = ["evaluate", *photographs, "--attack", "fgsm", "--eps", "0.1", "--out", "run"]
    assert run(options) == 2
    assert "2 class folders (cat, dog …) and the model has 3 classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "map.txt").write_text("dog 0\ncat 2\n")
    assert run([*options, "--class-map", "map.txt"]) == 0
    said = capsys.readouterr().out
    assert "shorter side to 20 pixels (bicubic), central 16×16; classes by map.txt" in said
    assert (tmp_path / "run" / "classes.csv").read_text().splitlines()[1:][0].startswith("0,dog,1,")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["identity"]["dataset"]["preprocess"] == "shorter side to 20 pixels (bicubic), central 16×16"
    assert stored["created"] and stored["limit"] is None


def test_the_user_decides_how_images_are_prepared(photographs, capsys):
    options = ["evaluate", *photographs, "--class-map", "folders", "--attack", "fgsm", "--out", "run"]
    assert run([*options, "--resize", "16", "--interpolation", "nearest"]) == 0
    assert "shorter side to 16 pixels (nearest), central 16×16; classes numbered by folder" in capsys.readouterr().out
    assert run([*options, "--crop", "18"]) == 2
    assert "takes no image of shape (3, 18, 18)" in capsys.readouterr().err
    assert run([*options, "--crop", "300"]) == 2
    assert "crop must be between 1 and resize" in capsys.readouterr().err


def test_images_that_rounding_saves_are_explained(tmp_path, capsys, monkeypatch):
    (tmp_path / "near.py").write_text(
        "import torch\n\ndef make():\n    layer = torch.nn.Linear(64, 10)\n    torch.manual_seed(0)\n"
        "    torch.nn.init.normal_(layer.weight)\n"
        "    with torch.no_grad():\n        layer.bias.copy_(-100 / 255 * layer.weight.sum(1))\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    pixels = np.random.default_rng(0).integers(99, 102, (24, 8, 8, 1)).astype(np.uint8)  # a level from the boundaries
    from near import make

    labels = make()(torch.from_numpy(pixels).view(24, 64) / 255).argmax(1).numpy()
    np.savez(tmp_path / "near.npz", images=pixels, labels=labels)
    options = ["--model", "near:make", "--dataset", "npz", "--data-root", "near.npz", "--device", "cpu", "--save-png"]
    assert run(["evaluate", *options, "--attack", "pgd:steps=5", "--eps", "0.9/255,8/255", "--out", "run"]) == 0
    said = words(capsys)
    assert "less than a level" in said and "levels=256" in said
    judged = pq.read_table(tmp_path / "run" / "png.parquet").to_pylist()
    assert judged and not any(row["success"] for row in judged if row["eps"] < 1 / 255)
