import json

import pytest
import torch

from regfast.cli import run
from regfast.measurement.networks import open_networks, preprocessing
from regfast.models import load_model, save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints of one kind, and one of another number of classes."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, classes, seed in (("a", 10, 0), ("b", 10, 1), ("twelve", 12, 0)):
        save_checkpoint(
            load_model("small-cnn", num_classes=classes, seed=seed).network_state(), folder / f"{name}.safetensors"
        )
    return folder


def test_several_checkpoints_are_seeds(folder):
    (both,) = open_networks([f"both=small-cnn@{folder / 'a.safetensors'},{folder / 'b.safetensors'}"])
    first, second = both.members
    assert torch.equal(first.head.weight, load_model("small-cnn", folder / "a.safetensors").head.weight)
    assert not torch.equal(first.head.weight, second.head.weight)
    assert len(set(both.as_dict()["fingerprints"])) == 2
    assert both.describe().startswith(
        "both: small-cnn, 128 features, 10 classes; images in [0, 1], no normalization added;"
    )


def test_preprocessing_is_given_or_comes_from_the_weights(folder):
    spec = f"one=small-cnn@{folder / 'a.safetensors'}"
    (one,) = open_networks([spec], ["one:resize=40,crop=32", "mean=0.5,std=0.25"])
    assert str(one.preprocess) == "shorter side to 40 pixels (bilinear), central 32×32"
    images = torch.rand(2, 1, 8, 8)
    plain = load_model("small-cnn", folder / "a.safetensors")
    assert torch.equal(one.members[0](images), plain((images - 0.5) / 0.25))
    assert preprocessing(["a:mean=0.1 0.2 0.3"], ["a", "b"]) == {"a": {"mean": [0.1, 0.2, 0.3]}, "b": {}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "small-cnn"], "a network is written NAME=MODEL"),
        (["--network", "x=small-cnn"], "network x: small-cnn alone has random weights; write x=small-cnn@CHECKPOINT"),
        (["--network", "x=small-cnn@none.pt"], "network x: no checkpoint at none.pt"),
        (["--network", "x=resnet20@A"], "network x: checkpoint A does not fit the model; missing:"),
        (["--network", "x=no-such@A"], "network x: no model is called 'no-such'"),
        (["--network", "x=small-cnn@A", "--network", "x=small-cnn@B"], "two networks are called 'x'"),
        (["--network", "x=small-cnn@A", "--network", "y=small-cnn@A,B"], "network y has 2 checkpoints and x has 1"),
        (["--network", "x=small-cnn@A", "--network", "y=small-cnn@C"], "network y tells 12 classes apart and x 10"),
        (["--network", "y=small-cnn@C"], "network y tells 12 classes apart and digits has 10"),
        (["--network", "x=small-cnn@A", "--preprocess", "z:crop=8"], "no network is called so; there are x"),
        (["--network", "x=small-cnn@A", "--preprocess", "x:crops=8"], "preprocessing knows resize, crop"),
        (["--network", "x=small-cnn@A", "--class-map", "imagenet"], "class_map is for imagefolder"),
        (["--network", "x=small-cnn@A", "--size", "tiny"], "size must be one of full, small, smoke"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_named(folder, tmp_path, capsys, options, message):
    places = {"A": "a", "B": "b", "C": "twelve"}

    def written(option):
        model, at, sources = option.partition("@")
        named = [
            str(folder / f"{places[source]}.safetensors") if source in places else source
            for source in sources.split(",")
        ]
        return f"{model}{at}{','.join(named)}"

    given = [written(option) for option in options]
    assert run(["measure", *given, "--dataset", "digits", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message.replace(" A ", f" {folder / 'a.safetensors'} ") in said
    assert not (tmp_path / "run").exists()


def test_the_command_says_what_it_measures_and_ends_with_figures(folder, tmp_path, capsys):
    spec = f"one=small-cnn@{folder / 'a.safetensors'}"
    few = ["--size", "smoke", "--limit", "30", "--attacked", "2", "--no-report", "--out", str(tmp_path / "run")]
    assert run(["measure", "--network", spec, "--dataset", "digits", *few]) == 0
    said = capsys.readouterr().out
    assert "one: small-cnn, 128 features, 10 classes; images in [0, 1], no normalization added" in said
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["regularizers"]["one"]
    assert f"{found['accuracy']['mean']:.3f}" in said and f"finished: result files in {tmp_path / 'run'}" in said
