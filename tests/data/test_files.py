import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from regfast.data import load_images, load_splits

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_npz(path, count=60, kinds=3, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (count, 5, 6, 3), dtype=np.uint8),
        "labels": np.arange(count) % kinds,
        **changes,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def test_npz(tmp_path):
    arrays = write_npz(tmp_path / "a.npz")
    data = load_images("npz", tmp_path / "a.npz")
    image, label = data[7]
    np.testing.assert_allclose(image.numpy(), arrays["images"][7].transpose(2, 0, 1) / 255, rtol=1e-6)
    assert label == 1 and len(data) == 60 and data.classes == ("0", "1", "2")


def test_npz_file_is_divided_once(tmp_path):
    write_npz(tmp_path / "a.npz")
    splits = load_splits("npz", tmp_path / "a.npz")
    assert [len(part) for part in (splits.train, splits.holdout, splits.test)] == [42, 6, 12]
    assert splits.test.labels.bincount().tolist() == [4, 4, 4]
    assert torch.equal(splits.test.indices, load_splits("npz", tmp_path / "a.npz").test.indices)


def test_npz_folder(tmp_path):
    write_npz(tmp_path / "train.npz")
    write_npz(tmp_path / "test.npz", count=9)
    splits = load_splits("npz", tmp_path)
    assert [len(part) for part in (splits.train, splits.holdout, splits.test)] == [54, 6, 9]
    assert len(load_images("npz", tmp_path)) == 9
    write_npz(tmp_path / "test.npz", kinds=5)
    with pytest.raises(ValueError, match="3 classes to train on, 5 to test on"):
        load_splits("npz", tmp_path)


def test_npz_grey_images_and_class_names(tmp_path):
    write_npz(tmp_path / "a.npz", images=np.zeros((60, 5, 6), np.uint8), classes=np.array(["cat", "dog", "owl"]))
    data = load_images("npz", tmp_path / "a.npz")
    assert data[0][0].shape == (1, 5, 6) and data.classes == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": None}, ValueError, "no array labels"),
        ({"images": np.zeros((60, 5, 6, 3))}, TypeError, "uint8"),
        ({"labels": np.zeros(60)}, TypeError, "integers"),
        ({"labels": np.zeros(59, int)}, ValueError, r"\(60,\)"),
        ({"labels": np.full(60, -2)}, ValueError, "label -2"),
        ({"labels": np.full(60, 4), "classes": np.array(["a", "b"])}, ValueError, "label 4"),
        ({"images": np.zeros((0, 5, 6, 3), np.uint8), "labels": np.zeros(0, int)}, ValueError, "no images"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, changes, error, message):
    labels = changes.pop("labels", "as they are")
    classes = changes.pop("classes", None)
    write_npz(tmp_path / "a.npz", **changes)
    arrays = dict(np.load(tmp_path / "a.npz"))
    if labels is None:
        del arrays["labels"]
    elif not isinstance(labels, str):
        arrays["labels"] = labels
    if classes is not None:
        arrays["classes"] = classes
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=message):
        load_images("npz", tmp_path / "a.npz")


def test_missing_and_damaged_files_say_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.npz"):
        load_images("npz", tmp_path / "nothing.npz")
    for content in (b"", b"PK\x03\x04 broken", b"text"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz is damaged"):
            load_images("npz", tmp_path / "a.npz")
    whole = tmp_path / "b.npz"
    write_npz(whole)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"b\.npz is damaged"):
        load_images("npz", whole)
    with pytest.raises(ValueError, match="--data-root"):
        load_images("cifar10")
    with pytest.raises(ValueError, match="there are noisy-digits, digits"):
        load_splits("cifar11", tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real images are not at {SHARED}")
def test_real_npz():
    data = load_images("npz", SHARED / "cifar10_test2k.npz")
    assert len(data) == 2000 and data[0][0].shape == (3, 32, 32) and len(data.classes) == 10


class TestTorchvision:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("regfast.models._torchvision", exc_type=ImportError)

    def test_cifar_that_is_not_there_is_not_downloaded(self, tmp_path, monkeypatch):
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("went to the network"))
        with pytest.raises(FileNotFoundError, match=r"looked for cifar-10-batches-py in .*--download"):
            load_splits("cifar10", tmp_path)
        with pytest.raises(FileNotFoundError, match="cifar-100-python"):
            load_images("cifar100", tmp_path)

    def test_cifar10_as_torchvision_stores_it(self, tmp_path, monkeypatch):
        from regfast.models._torchvision import torchvision

        kind = torchvision.datasets.CIFAR10
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
        monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        rng = np.random.default_rng(0)
        for name, _ in kind.train_list + kind.test_list:
            part = {"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": list(range(10)) * 2}
            (folder / name).write_bytes(pickle.dumps(part))
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
        splits = load_splits("cifar10", tmp_path)
        assert [len(part) for part in (splits.train, splits.holdout, splits.test)] == [90, 10, 20]
        stored = pickle.loads((folder / "test_batch").read_bytes())["data"][3].reshape(3, 32, 32)
        np.testing.assert_allclose(splits.test[3][0].numpy(), stored / 255, rtol=1e-6)

    def test_image_folder(self, tmp_path):
        from PIL import Image

        rng = np.random.default_rng(0)
        for part, count in (("train", 12), ("val", 3)):
            for name in ("cat", "dog"):
                (tmp_path / part / name).mkdir(parents=True)
                for index in range(count):
                    picture = Image.fromarray(rng.integers(0, 256, (300, 260, 3), dtype=np.uint8))
                    picture.save(tmp_path / part / name / f"{index}.png")
        splits = load_splits("imagefolder", tmp_path)
        assert [len(part) for part in (splits.train, splits.holdout, splits.test)] == [22, 2, 6]
        assert splits.test.classes == ("cat", "dog") and splits.image_shape == (3, 224, 224)
        batch = splits.train.batch(torch.tensor([0, 21]))
        assert batch.shape == (2, 3, 224, 224) and float(batch.min()) >= 0 and float(batch.max()) <= 1
        (tmp_path / "val" / "dog" / "2.png").write_bytes(b"not an image")
        with pytest.raises(ValueError, match=r"2\.png cannot be read"):
            load_images("imagefolder", tmp_path)[5]
        (tmp_path / "val" / "dog").rename(tmp_path / "val" / "fox")
        with pytest.raises(ValueError, match=r"differ in .*dog, fox"):
            load_splits("imagefolder", tmp_path)

    def test_image_folder_that_is_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="looked for train and val"):
            load_splits("imagefolder", tmp_path)
        with pytest.raises(FileNotFoundError, match="folder of images for each class"):
            load_images("imagefolder", tmp_path)
        with pytest.raises(FileNotFoundError, match="no folder"):
            load_images("imagefolder", tmp_path / "none")
