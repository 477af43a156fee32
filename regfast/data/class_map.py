"""Which class of a model a folder of images is: folders are numbered by name, and a model's classes need not be.

An image folder with some of ImageNet's classes (Imagenette, ImageNet-100, ImageNet-R) numbers them 0, 1, 2 …; a
network trained on all of them does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

__all__ = ["ClassMap", "imagenet_classes", "map_classes", "read_class_map"]

_WORDNET = re.compile(r"n\d{8}")


def read_class_map(path: str | Path) -> dict[str, int]:
    """Folder name → class number, from a file in one of the forms in use.

    JSON: `{"tench": 0}`, `{"0": "tench"}`, `{"0": ["n01440764", "tench"]}` (ImageNet's usual index file) or a list of
    names in the order of the classes. Text, one class a line: `n01440764 0` or `n01440764,0`, else the first word of
    each line in the order of the classes (as in ILSVRC's `LOC_synset_mapping.txt`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds something else, a number below 0, or a name twice.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"class map: no file {file}")
    text = file.read_text(encoding="utf-8")
    try:
        pairs = _from_json(json.loads(text)) if text.lstrip().startswith(("{", "[")) else _from_lines(text)
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(
            f"class map {file} must give each folder a class number (JSON or lines NAME NUMBER), got {error}"
        ) from error
    found: dict[str, int] = {}
    for name, number in pairs:
        if number < 0:
            raise ValueError(f"class map {file}: class numbers start at 0, {name} has {number}")
        if found.setdefault(name, number) != number:
            raise ValueError(f"class map {file}: {name} is class {found[name]} and class {number}")
    if not found:
        raise ValueError(f"class map {file} is empty")
    return found


def imagenet_classes() -> dict[str, int]:
    """WordNet id → class number of the 1,000 ImageNet classes, from the list that timm carries.

    Raises ImportError where timm is not installed.
    """
    return {name: number for number, name in enumerate(_of_timm("imagenet_synsets.txt").split())}


def _of_timm(file: str) -> str:
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise ImportError("ImageNet's WordNet ids come with timm: pip install 'regfast[vision]'")
    return (Path(spec.origin).parent / "data" / "_info" / file).read_text(encoding="utf-8")


class ClassMap(NamedTuple):
    """Class numbers of folders, what the classes are called, and in words where both come from."""

    numbers: dict[str, int]
    names: dict[int, str]
    source: str


def map_classes(folders: Sequence[str], num_classes: int, given: str | None) -> ClassMap:
    """The class number of each of `folders`.

    Args:
        folders: names of the class folders, sorted.
        num_classes: of the model.
        given: path of a class map, "folders" (number them by name), "imagenet", or None: "folders" where there are as
            many as classes, "imagenet" for WordNet ids and 1,000 classes.

    Raises:
        ValueError: folders that the map lacks, numbers the model lacks; or without `given`, when which is which is not
            known.
    """
    if given is None:
        if len(folders) == num_classes:
            given = "folders"
        elif num_classes == 1000 and all(map(_WORDNET.fullmatch, folders)) and find_spec("timm") is not None:
            given = "imagenet"
        else:
            raise ValueError(
                f"there are {len(folders)} class folders ({', '.join(folders[:3])} …) and the model has {num_classes} "
                "classes: which of them is each folder? Give --class-map: a file with lines NAME NUMBER; imagenet, for "
                "WordNet ids; or folders, where they are the model's first classes in order"
            )
    if given == "folders":
        numbers: Mapping[str, int] = {name: number for number, name in enumerate(folders)}
        source = "classes numbered by folder name"
    elif given == "imagenet":
        numbers, source = imagenet_classes(), "classes by WordNet id (ImageNet-1k)"
    else:
        numbers, source = read_class_map(given), f"classes by {Path(given).name}"
    missing = [name for name in folders if name not in numbers]
    if missing:
        raise ValueError(
            f"--class-map {given} lacks {len(missing)} of {len(folders)} folders: {', '.join(missing[:5])}"
        )
    outside = [name for name in folders if numbers[name] >= num_classes]
    if outside:
        raise ValueError(
            f"--class-map {given}: {outside[0]} is class {numbers[outside[0]]}, the model has {num_classes} classes"
        )
    names = {number: name for name, number in numbers.items()}
    if given == "imagenet":
        words = dict(line.split("\t") for line in _of_timm("imagenet_synset_to_lemma.txt").splitlines())
        names = {number: words[name].split(",")[0] for number, name in names.items()}
    return ClassMap({name: numbers[name] for name in folders}, names, source)


def _from_json(content: object) -> list[tuple[str, int]]:
    if isinstance(content, list):
        return [(str(name), number) for number, name in enumerate(content)]
    if not isinstance(content, dict):
        raise ValueError(type(content).__name__)
    pairs = []
    for key, value in content.items():
        if isinstance(value, int) and not isinstance(value, bool):
            pairs.append((str(key), value))
        else:
            name = value[0] if isinstance(value, list) else value
            if not isinstance(name, str):
                raise ValueError(f"{key}: {value}")
            pairs.append((name, int(key)))
    return pairs


def _from_lines(text: str) -> list[tuple[str, int]]:
    lines = [re.split(r"[\s,]+", line.strip()) for line in text.splitlines() if line.strip()]
    numbered = all(len(line) == 2 and line[1].isdecimal() for line in lines)
    return [(line[0], int(line[1]) if numbered else place) for place, line in enumerate(lines)]
