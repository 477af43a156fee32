"""A few broken images of a run, for the picture grid: attacked once more, which gives the same images again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from regfast.attacks.base import Runnable
from regfast.evaluation.samples import Dataset, image_shape, load_chunk
from regfast.evaluation.targets import target_classes
from regfast.evaluation.worker import Settings, clean_logits
from regfast.runs.files import replacing

__all__ = ["Example", "read_examples", "write_examples"]

FILE = "examples.safetensors"
COUNT = 6


@dataclass(frozen=True)
class Example:
    """One broken image: (C, H, W) `clean` and `adversarial` in [0, 1], and what the model says of both."""

    clean: Tensor
    adversarial: Tensor
    sample: int
    attack: str
    norm: str
    eps: float
    label: int
    label_name: str
    clean_prediction: int
    clean_confidence: float
    prediction: int
    prediction_name: str
    confidence: float


def write_examples(
    folder: Path,
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    groups: Sequence[Sequence[Runnable]],
    names: Sequence[str],
    rows: pa.Table,
    settings: Settings,
    *,
    count: int = COUNT,
) -> None:
    """Write `examples.safetensors`: up to `count` images that the strongest attack of the run broke.

    They are spread over the sample ids, and attacked at the eps at which they fell. A random draw depends on seed and
    sample alone, so these are the images of the run; one that rounding saves the second time is left out.
    """
    broken = rows.filter(pc.and_(rows["success"], pc.invert(rows["carried"])))
    if not broken.num_rows:
        return
    of_group = [
        broken.filter(pc.and_(pc.equal(broken["attack"], name), pc.equal(broken["norm"], group[0].norm.name)))
        for group, name in zip(groups, names, strict=True)
    ]
    strongest = max(range(len(groups)), key=lambda place: of_group[place].num_rows)
    group, name, mine = groups[strongest], names[strongest], of_group[strongest].sort_by("sample")
    mine = mine.take(sorted({k * mine.num_rows // count for k in range(count)}))
    images: dict[str, list[Tensor]] = {"clean": [], "perturbation": []}
    said: list[dict[str, Any]] = []
    names_of = dict(enumerate(getattr(dataset, "classes", ())))
    for attack in group:
        here = mine.filter(pc.equal(mine["eps"], float(attack.options["eps"]))).to_pylist()
        ids = [row["sample"] for row in here]
        chunk = load_chunk(dataset, ids, 2**62, image_shape(dataset, ids))
        if not ids or not bool(chunk.usable.all()):
            continue
        prepared = settings.prepare(model, chunk.images)
        logits = clean_logits(model, chunk.images, settings.device, len(here)).cpu()
        goals = None
        if settings.target is not None:
            goals = target_classes(settings.target, chunk.labels, chunk.samples, logits, settings.seed)
        result = attack.run(
            prepared, chunk.images, chunk.labels, sample_ids=chunk.samples, clean_logits=logits, seed=settings.seed,
            targets=goals,
        )  # fmt: skip
        before = logits.softmax(1)
        after = clean_logits(model, result.images, settings.device, len(here)).cpu().softmax(1)
        for place in result.success.nonzero().flatten().tolist():
            images["clean"].append(chunk.images[place])
            images["perturbation"].append(result.images[place].cpu() - chunk.images[place])
            said.append(
                {
                    "sample": int(chunk.samples[place]),
                    "attack": name,
                    "norm": attack.norm.name,
                    "eps": float(attack.options["eps"]),
                    "label": int(chunk.labels[place]),
                    "label_name": names_of.get(int(chunk.labels[place]), str(int(chunk.labels[place]))),
                    "clean_prediction": int(before[place].argmax()),
                    "clean_confidence": float(before[place].max()),
                    "prediction": int(after[place].argmax()),
                    "prediction_name": names_of.get(int(after[place].argmax()), str(int(after[place].argmax()))),
                    "confidence": float(after[place].max()),
                }
            )
    if said:
        order = sorted(range(len(said)), key=lambda place: int(said[place]["sample"]))
        said = [said[place] for place in order]
        content = {key: torch.stack([kept[place] for place in order]).half() for key, kept in images.items()}
        with replacing(folder / FILE) as file:
            file.write(safetensors_bytes(content, {"examples": json.dumps(said)}))


def read_examples(folder: Path) -> list[Example]:
    """The examples that `write_examples` left in `folder`; none if it left none."""
    path = folder / FILE
    if not path.is_file():
        return []
    with safe_open(path, framework="pt") as stored:
        said = json.loads(stored.metadata()["examples"])
        clean, moved = stored.get_tensor("clean").float(), stored.get_tensor("perturbation").float()
    return [
        Example(image, (image + delta).clamp(0, 1), **one) for image, delta, one in zip(clean, moved, said, strict=True)
    ]
