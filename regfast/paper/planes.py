"""Fig. 1, 2, 4 and 5: a model with a bottleneck two wide before the head, and what its plane holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regfast.attacks import PGD
from regfast.data import ImageArray, Splits, Subset
from regfast.models import SplitClassifier, load_model, seeded
from regfast.representation import class_centers, class_means, default_radius
from regfast.training import predict

Columns = dict[str, NDArray[Any]]


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
    radius = default_radius(features, correct if bool(correct.any()) else torch.ones_like(correct))
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
