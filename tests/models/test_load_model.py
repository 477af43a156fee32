from pathlib import Path

import numpy as np
import pytest
import torch

from regfast.models import OWN_MODELS, load_model, save_checkpoint

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real images and weights are not at {SHARED}")


@pytest.mark.parametrize("name", OWN_MODELS)
def test_own_models_run(name):
    model = load_model(name, num_classes=7, seed=0)
    channels, size = (1, 8) if name == "small-cnn" else (3, 32)
    x = torch.rand(2, channels, size, size)
    assert model(x).shape == (2, 7)
    assert model.features(x).shape == (2, 128 if name == "small-cnn" else 64)
    assert not model.training


def test_parameter_counts_are_those_of_the_paper():
    # He et al. 2016, Table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M, 1.7 M parameters.
    millions = [sum(p.numel() for p in load_model(name).parameters()) / 1e6 for name in OWN_MODELS[1:]]
    assert [round(m, 2) for m in millions[:4]] == [0.27, 0.46, 0.66, 0.85]
    assert round(millions[4], 1) == 1.7


@needs_shared
@pytest.mark.parametrize(("weights", "accuracy"), [("resnet20", 0.8145), ("robust_resnet20", 0.71)])
def test_real_resnet20_on_real_images(weights, accuracy):
    arrays = np.load(SHARED / "cifar10_test2k.npz")
    model = load_model("resnet20", SHARED / f"{weights}_cifar10.safetensors")
    x = torch.from_numpy(arrays["images"][:1000]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(250)]) == torch.from_numpy(arrays["labels"][:1000])
    assert abs(float(right.float().mean()) - accuracy) < 0.02


def test_seed_decides_the_weights_and_nothing_else():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (load_model("small-cnn", seed=seed).network_state() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_checkpoint_round_trip(tmp_path):
    model = load_model("small-cnn", num_classes=4, seed=3)
    save_checkpoint(model.network_state(), tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.network_state().items()}}, tmp_path / "a.pt")
    x = torch.rand(2, 1, 8, 8)
    for name in ("a.safetensors", "a.pt"):
        loaded = load_model("small-cnn", tmp_path / name)
        assert loaded.num_classes == 4  # the checkpoint's, since nobody asked for another number
        assert torch.equal(loaded(x), model(x))
    assert not list(tmp_path.glob("*.tmp"))


def test_mismatches_are_named(tmp_path):
    state = load_model("small-cnn", seed=0).network_state()
    state["extra"] = torch.zeros(1)
    del state["body.0.0.weight"]
    save_checkpoint(state, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"missing: body\.0\.0\.weight; not in the model: extra; other shape: head"):
        load_model("small-cnn", tmp_path / "a.safetensors", num_classes=3)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"did you mean.*resnet20"):
        load_model("resnet21")
    with pytest.raises(ValueError, match="num_classes"):
        load_model("resnet20", num_classes=1)
    for wrong, error, message in (
        ({"name": None}, TypeError, "name must be text, got None"),
        ({"num_classes": "5"}, TypeError, "num_classes must be a whole number, got '5'"),
        ({"in_channels": 0}, ValueError, "in_channels must be at least 1 and below"),
        ({"seed": 2**70}, ValueError, "seed must be at least 0 and below"),
        ({"seed": 0.5}, TypeError, "seed must be a whole number, got 0.5"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path, got 3"),
    ):
        with pytest.raises(error, match=message):
            load_model(**{"name": "small-cnn", **wrong})
    with pytest.raises(ValueError, match="published weights"):
        load_model("resnet20", weights="DEFAULT")


class TestTorchvision:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("regfast.models._torchvision", exc_type=ImportError)

    @pytest.mark.parametrize(
        ("name", "head"),
        [
            ("resnet18", "fc"),
            ("mobilenet_v3_small", "classifier.3"),
            ("efficientnet_b0", "classifier.1"),
            ("densenet121", "classifier"),
            ("shufflenet_v2_x0_5", "fc"),
        ],
    )
    def test_split(self, name, head):
        model = load_model(f"torchvision:{name}", num_classes=5, seed=0)
        assert model.head_name == head
        assert model.num_classes == 5
        torch.testing.assert_close(model.normalize.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "head"), [("vit_b_16", "heads.head"), ("convnext_tiny", "classifier.2"), ("swin_t", "head")]
    )
    def test_split_transformers(self, name, head):
        assert load_model(f"torchvision:{name}", num_classes=5, seed=0).head_name == head

    def test_preprocess_is_the_weights_own(self):
        from PIL import Image

        from regfast.models._torchvision import torchvision

        weights = torchvision.models.get_model_weights("resnet18").DEFAULT
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
        model = load_model("torchvision:resnet18", seed=0)
        torch.testing.assert_close(
            model.normalize(model.preprocess(picture)), weights.transforms()(picture), atol=1e-6, rtol=0
        )

    def test_errors(self):
        with pytest.raises(ValueError, match=r"did you mean resnet50"):
            load_model("torchvision:resnet5O")
        with pytest.raises(ValueError, match="IMAGENET1K_V2"):
            load_model("torchvision:resnet50", weights="IMAGENET")
        with pytest.raises(ValueError, match="SqueezeNet"):
            load_model("torchvision:squeezenet1_1")


class TestTimm:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("regfast.models._torchvision", exc_type=ImportError)
        pytest.importorskip("timm")

    @pytest.mark.parametrize(
        ("name", "head"),
        [
            ("resnet10t", "fc"),
            ("convnext_atto", "head.fc"),
            ("vit_tiny_patch16_224", "head"),
            ("mobilenetv3_small_050", "classifier"),
        ],
    )
    def test_split(self, name, head):
        model = load_model(f"timm:{name}", num_classes=5, seed=0)
        assert model.head_name == head
        assert model.num_classes == 5

    def test_normalization_is_the_models_own(self):
        model = load_model("timm:vit_tiny_patch16_224", num_classes=5, seed=0)
        assert model.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]
        assert model.preprocess.crop == 224

    def test_other_channels(self):
        model = load_model("timm:resnet10t", num_classes=5, in_channels=1, seed=0)
        assert model(torch.rand(2, 1, 64, 64)).shape == (2, 5)
        assert model.normalize.mean.flatten().tolist() == pytest.approx([(0.485 + 0.456 + 0.406) / 3])

    def test_names_without_their_library(self):
        with pytest.raises(ValueError, match=r"did you mean torchvision:resnet18 or timm:resnet18\?"):
            load_model("resnet18")
        with pytest.raises(ValueError, match=r"did you mean timm:vit_tiny_patch16_224\?"):
            load_model("vit_tiny_patch16_224")

    def test_two_heads_and_unknown_names(self):
        with pytest.raises(ValueError, match="head_dist"):
            load_model("timm:deit_tiny_distilled_patch16_224")
        with pytest.raises(ValueError, match="timm has no model"):
            load_model("timm:resnet5O")


def test_a_factory_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n\n"
        "def make(num_classes=7, in_channels=3):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(4, num_classes))\n\n"
        "def fixed():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))\n\n"
        "def none():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    model = load_model("own_networks:make", num_classes=4, seed=1)
    images = torch.rand(2, 3, 16, 16)
    assert model(images).shape == (2, 4) and not model.training
    assert torch.equal(model(images), load_model("own_networks:make", num_classes=4, seed=1)(images))
    save_checkpoint(model.network_state(), tmp_path / "own.safetensors")
    assert torch.equal(load_model("own_networks:make", tmp_path / "own.safetensors")(images), model(images))
    assert load_model("own_networks:fixed").num_classes == 5
    for name, options, said in (
        ("own_networks:fixed", {"num_classes": 10}, "5 classes, 10 are needed"),
        ("own_networks:none", {}, "must give a torch.nn.Module, got int"),
        ("own_networks:make", {"weights": "DEFAULT"}, "no published weights"),
        ("own_networks:nobody", {}, "nobody"),
    ):
        with pytest.raises(ValueError, match=said):
            load_model(name, **options)
