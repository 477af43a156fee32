"""Class folders that are some of a model's classes."""

import json

import numpy as np
import pytest
from PIL import Image

from regfast.data import imagenet_classes, load_images, map_classes, read_class_map

BIRDS = {"n01514668": 7, "n01514859": 8}  # ImageNet's cock and hen


@pytest.fixture
def birds(tmp_path):
    for place, folder in enumerate(BIRDS):
        (tmp_path / "val" / folder).mkdir(parents=True)
        Image.fromarray(np.full((32, 40, 3), 60 * place, np.uint8)).save(tmp_path / "val" / folder / "one.png")
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(BIRDS),
        json.dumps({str(number): [name, "bird"] for name, number in BIRDS.items()}),
        json.dumps({str(number): name for name, number in BIRDS.items()}),
        "n01514668 7\nn01514859 8\n",
        "n01514668,7\nn01514859,8\n",
    ],
)
def test_every_form_of_a_class_map(tmp_path, text):
    (tmp_path / "map").write_text(text)
    assert read_class_map(tmp_path / "map") == BIRDS


def test_names_in_the_order_of_the_classes(tmp_path):
    (tmp_path / "map").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
    assert read_class_map(tmp_path / "map") == {"n01440764": 0, "n01443537": 1}
    (tmp_path / "map").write_text('["a", "b"]')
    assert read_class_map(tmp_path / "map") == {"a": 0, "b": 1}


@pytest.mark.parametrize("text", ['{"a": -1}', '{"a": "b"}', "{", "", '{"0": 3.5}', "a 1\na 2\n"])
def test_a_damaged_class_map_is_named(tmp_path, text):
    (tmp_path / "map").write_text(text)
    with pytest.raises(ValueError, match=r"class map .*map"):
        read_class_map(tmp_path / "map")


def test_wordnet_ids_have_the_classes_of_imagenet():
    classes = imagenet_classes()
    assert len(classes) == 1000 and sorted(classes) == list(classes)
    assert {name: classes[name] for name in BIRDS} == BIRDS and classes["n15075141"] == 999


def test_which_class_a_folder_is_must_be_known():
    assert map_classes(["a", "b"], 2, None).numbers == {"a": 0, "b": 1}
    assert map_classes(list(BIRDS), 1000, None).numbers == BIRDS
    assert map_classes(list(BIRDS), 1000, "folders").numbers == dict(zip(BIRDS, (0, 1), strict=True))
    for folders, classes in ((["cat", "dog"], 1000), (list(BIRDS), 100), (["a", "b", "c"], 2)):
        with pytest.raises(ValueError, match="--class-map"):
            map_classes(folders, classes, None)
    with pytest.raises(ValueError, match="lacks 1 of 2 folders: dog"):
        map_classes(["n01514668", "dog"], 1000, "imagenet")
    with pytest.raises(ValueError, match="n01514668 is class 7, the model has 5"):
        map_classes(["n01514668"], 5, "imagenet")


def test_mapped_folders_have_the_models_labels(birds):
    found = load_images("imagefolder", birds)
    assert found.labels.tolist() == [0, 1] and found.classes == tuple(BIRDS)
    mapped = found.mapped(map_classes(found.classes, 1000, None))
    assert mapped.labels.tolist() == [7, 8] and [mapped[index][1] for index in range(2)] == [7, 8]
    assert mapped.classes[7:9] == ("cock", "hen") and len(mapped.classes) == 1000
    (birds / "map").write_text("n01514668 2\nn01514859 1\n")
    own = found.mapped(map_classes(found.classes, 4, str(birds / "map")))
    assert own.labels.tolist() == [2, 1] and own.classes == ("0", "n01514859", "n01514668")
    assert mapped.preprocess == "shorter side to 256 pixels (bilinear), central 224×224"
