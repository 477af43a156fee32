"""Fig. 1, 2, 4 and 5: two-dimensional representation spaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from regfast.attacks import PGD
from regfast.data import ImageArray, Splits, Subset, data_set, load_splits
from regfast.models import SplitClassifier, load_model, seeded
from regfast.paper.parts.base import Columns, Given, Part, Work
from regfast.paper.parts.plane_figures import draw_fields, draw_planes
from regfast.paper.results import Paper
from regfast.report.drawing import Drawing
from regfast.representation import class_centers, class_means, default_radius
from regfast.runs.errors import InputError
from regfast.study import StudyConfig, built
from regfast.training import predict, train

_EPOCHS = 30  # at most, of the models two wide, which learn clean digits


class Planes(Part):
    """Models with a bottleneck two wide before the head, and what their planes hold."""

    name = "planes"
    row = "a point in a two-dimensional representation space (Fig. 1, 2, 4, 5)"
    columns = {
        "regularizer": "", "seed": "", "bias": "bool: does the head have one",
        "kind": "`weight`, `mean`, `center`, `feature`, `perturbed`", "label": "class",
        "sample": "-1 unless a feature; joins `feature` and `perturbed`", "x": "", "y": "",
        "offset": "the head's bias for `weight`, else 0",
    }  # fmt: skip
    section = "two-dimensions"
    named = False

    def settings(self, given: Given) -> dict[str, Any]:
        main, strong = given.main, given.pgd("strong")
        assert isinstance(main, StudyConfig)
        embedded = data_set(main.dataset).embedded
        return {
            # Two dimensions are right for two fifths of the noisy digits: nothing would gather anywhere.
            "dataset": "digits" if main.dataset == "noisy-digits" else main.dataset,
            "model": main.model,
            "label": given.label,
            "epochs": min(main.recipe.epochs, _EPOCHS) if embedded else main.recipe.epochs,
            "seed": main.seeds[0],
            "images": given.images,
            "attack": f"PGD-{given.steps}",
            "eps": strong.eps,
            **given.attack,
        }

    def steps(self, settings: Mapping[str, Any]) -> int:
        return int(settings["epochs"])

    def check(self, settings: Mapping[str, Any], main: StudyConfig) -> None:
        classes = load_splits(settings["dataset"], main.data_root).num_classes
        if settings["label"] >= classes:
            raise InputError(f"label must be below {classes}, the classes of the data, got {settings['label']}")

    def of_plane(self, work: Work) -> Columns:
        settings, main = work.settings, work.main
        assert isinstance(main, StudyConfig)
        splits = load_splits(settings["dataset"], main.data_root)
        model = bottleneck_model(
            settings["model"], splits.num_classes, splits.image_shape[0], bias=work.bias, seed=work.seed
        ).to(work.device)
        rule = built(work.regularizer, main.regularizers[work.regularizer])
        recipe = replace(main.recipe, epochs=settings["epochs"])
        batches = recipe.steps(len(splits.train))
        train(
            model, splits.train, splits.holdout, rule, recipe, seed=work.seed,
            on_batch=lambda _: work.advance(1 / batches),
        )  # fmt: skip
        found = plane(model, splits, **{name: settings[name] for name in ("images", "norm", "eps", "steps")})
        count = len(found["x"])
        head = {"regularizer": work.regularizer, "seed": work.seed, "bias": work.bias}
        return {**{name: np.full(count, value) for name, value in head.items()}, **found}

    def figures(self, paper: Paper) -> list[Drawing]:
        return [*draw_planes(paper), *draw_fields(paper)]


def bottleneck_model(name: str, num_classes: int, in_channels: int, *, bias: bool, seed: int) -> SplitClassifier:
    """The backbone of model `name`, a linear layer to two dimensions, and a linear head with or without bias.

    No nonlinearity after the bottleneck, so that features can lie anywhere in the plane. All weights come from `seed`.
    """
    whole = load_model(name, num_classes=num_classes, in_channels=in_channels, seed=seed)
    with seeded(seed):
        narrow = nn.Linear(whole.head.in_features, 2)
        head = nn.Linear(2, num_classes, bias=bias)
    return SplitClassifier(nn.Sequential(whole.backbone, narrow), head, "head", whole.normalize)


def plane(model: SplitClassifier, splits: Splits, *, images: int, norm: str, eps: float, steps: int) -> Columns:
    """Columns kind, label, sample, x, y and offset of planes.parquet for one trained bottleneck model.

    Class means and centers (v_opt at the default radius) are of all test images; features of the first `images` of
    them, and the same under PGD where they are classified correctly.
    """
    features, logits, labels = predict(model, splits.test)
    correct = logits.argmax(1) == labels
    head = model.head
    radius = default_radius(features, correct)
    centers = class_centers(head.weight, head.bias, radius=radius).points
    means = class_means(features, labels, len(head.weight))
    count = min(images, len(labels))
    shown = Subset(splits.test, torch.arange(count))
    attacked = PGD(norm, eps, steps).run(model, shown.batch(torch.arange(count)), shown.labels, seed=0)
    moved, _, _ = predict(model, ImageArray(attacked.images, shown.labels, shown.classes))
    hit = attacked.clean.nonzero().flatten()
    classes, nobody = torch.arange(len(head.weight)), torch.full((len(head.weight),), -1)
    offset = torch.zeros(len(classes)) if head.bias is None else head.bias.detach().cpu()
    zeros = torch.zeros(len(classes))
    blocks = [
        _block("weight", classes, nobody, head.weight.detach().cpu(), offset),
        _block("mean", classes, nobody, means, zeros),
        _block("center", classes, nobody, centers.cpu(), zeros),
        _block("feature", shown.labels, torch.arange(count), features[:count], torch.zeros(count)),
        _block("perturbed", shown.labels[hit], hit, moved[hit], torch.zeros(len(hit))),
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _block(kind: str, label: Tensor, sample: Tensor, place: Tensor, offset: Tensor) -> Columns:
    place = place.double()
    return {
        "kind": np.full(len(label), kind),
        "label": label.numpy(),
        "sample": sample.numpy(),
        "x": place[:, 0].numpy(),
        "y": place[:, 1].numpy(),
        "offset": offset.double().numpy(),
    }
