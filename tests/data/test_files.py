import io
import pickle
import tracemalloc
from pathlib import Path
from zipfile import ZipFile

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


def test_npz_folder_compares_the_names_of_the_classes(tmp_path):
    """Their number says nothing: cats to train on must not be dogs to test on. Without names a file may lack some."""
    cats, dogs = np.array(["cat", "dog", "owl"]), np.array(["dog", "cat", "owl"])
    write_npz(tmp_path / "train.npz", classes=cats)
    write_npz(tmp_path / "test.npz", count=9, classes=dogs)
    with pytest.raises(ValueError, match=r"class 0 is 'cat' to train on and 'dog' to test on \(3 and 3 classes\)"):
        load_splits("npz", tmp_path)
    write_npz(tmp_path / "test.npz", count=9, classes=cats[:2], kinds=2)
    with pytest.raises(ValueError, match=r"class 2 is 'owl' to train on and 'none' to test on \(3 and 2 classes\)"):
        load_splits("npz", tmp_path)
    write_npz(tmp_path / "test.npz", count=9)
    with pytest.raises(ValueError, match="class 0 is 'cat' to train on and '0' to test on"):
        load_splits("npz", tmp_path)
    for train, test in ((5, 3), (3, 5)):
        write_npz(tmp_path / "train.npz", kinds=train)
        write_npz(tmp_path / "test.npz", count=9, kinds=test)
        splits = load_splits("npz", tmp_path)
        assert splits.num_classes == 5 and splits.train.classes == splits.test.classes


def test_npz_gray_images_and_class_names(tmp_path):
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
        ({"images": np.zeros((60, 3, 32, 32), np.uint8)}, ValueError, "channels come last"),
        ({"labels": np.full(60, None)}, TypeError, "labels .* must be integers, got object"),
        ({"labels": np.zeros((60, 1), int)}, ValueError, r"must be \(60,\), one an image, got shape \(60, 1\)"),
        ({"labels": np.arange(60) + 10**7}, ValueError, "label 10000059 .* means 10000060 classes: give their names"),
        ({"labels": np.full(60, 2**63, np.uint64), "classes": np.array(["a"])}, ValueError, "range of int64"),
        ({"labels": np.zeros(60, int), "classes": np.zeros((2, 2))}, TypeError, "classes .* must be names"),
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


def test_pickled_objects_are_named(tmp_path):
    write_npz(tmp_path / "a.npz", images=np.full(60, None))
    with pytest.raises(TypeError, match=r"images .* must be uint8 \(N, H, W, C\), got object"):
        load_images("npz", tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["<u1", "<u2", "<u4", "<u8", ">u8", ">i8", ">i2", "<i4", "|i1"])
def test_npz_labels_of_any_integer_type(tmp_path, kind):
    write_npz(tmp_path / "a.npz", labels=(np.arange(60) % 3).astype(kind))
    data = load_images("npz", tmp_path / "a.npz")
    assert data.labels.dtype == torch.int64 and data.labels.tolist() == (np.arange(60) % 3).tolist()


def with_header(path, name, shape, kind="|u1", body=b""):
    """An `.npz` file whose array `name` declares `shape` and holds `body`."""
    write_npz(path)
    arrays = dict(np.load(path))
    with ZipFile(path, "w") as file:
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            data = buffer.getvalue()
            if key == name:
                buffer = io.BytesIO()
                header = {"shape": shape, "fortran_order": False, "descr": kind}
                np.lib.format.write_array_header_1_0(buffer, header)
                data = buffer.getvalue() + body
            file.writestr(f"{key}.npy", data)


def test_declared_sizes_are_checked_before_anything_is_read(tmp_path):
    for name, shape, kind in (
        ("images", (10**6, 10**6, 10**3, 3), "|u1"),
        ("images", (60, 5, 6, 3), "|u1"),
        ("labels", (10**15,), "<i8"),
        ("labels", (-60,), "<i8"),
    ):
        with_header(tmp_path / "a.npz", name, shape, kind, b"few bytes")
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"a\.npz is damaged: {name}.npy declares .* and holds 9"):
            load_images("npz", tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 10**7
        tracemalloc.stop()


def test_mutated_files_are_damaged_or_do_not_fit(tmp_path):
    write_npz(tmp_path / "good.npz", count=6)
    whole = (tmp_path / "good.npz").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for number in range(200):
        data = bytearray(whole)
        for place in random.integers(len(data), size=1 + number % 6):
            data[place] = random.integers(256)
        (tmp_path / "a.npz").write_bytes(bytes(data))
        try:
            load_images("npz", tmp_path / "a.npz")
        except (ValueError, TypeError) as error:
            assert str(error).startswith("npz: ")
            refused += 1
    assert refused > 100


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
    with pytest.raises(ValueError, match="there are cifar10, cifar100, digits"):
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
        with pytest.raises(ValueError, match="class 1 is 'dog' to train on and 'fox' to test on"):
            load_splits("imagefolder", tmp_path)

    def test_image_folder_that_is_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="looked for train and val"):
            load_splits("imagefolder", tmp_path)
        with pytest.raises(FileNotFoundError, match="folder of images for each class"):
            load_images("imagefolder", tmp_path)
        with pytest.raises(FileNotFoundError, match="no folder"):
            load_images("imagefolder", tmp_path / "none")
