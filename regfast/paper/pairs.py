"""What is measured between the models of one seed: swaps of norms and directions, and attacks that transfer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regfast.data import ImageArray
from regfast.paper.full_pgd import FullPGD
from regfast.paper.outputs import Outputs
from regfast.representation import boundary_distance, counterfactual
from regfast.training import predict

Rows = list[dict[str, Any]]


def counterfactual_rows(models: Mapping[str, Outputs], steps: int) -> Rows:
    """Rows of counterfactual.parquet: every model's directions and head with every model's norms.

    The attack's radius is the median distance of the first model's correct features to their nearest boundary, so that
    an exact attack flips half of them.
    """
    first = next(iter(models.values()))
    distance = boundary_distance(first.features, first.weight, first.bias, first.labels).distance
    reached = distance[first.correct]
    eps = float(reached.median()) if len(reached) else float(distance.max())
    return [
        {
            "norms": giver,
            "directions": keeper,
            **counterfactual(
                kept.features, other.features, kept.weight, kept.bias, kept.labels, eps=eps, steps=steps
            )._asdict(),
        }
        for giver, other in models.items()
        for keeper, kept in models.items()
    ]


def transfer_rows(models: Mapping[str, Outputs], *, norm: str, eps: float, steps: int, name: str, seed: int) -> Rows:
    """Rows of transfer.parquet: what PGD on the source, run to its last step, does to the target.

    Counted are the images that both classify correctly.
    """
    rows: Rows = []
    for source, outputs in models.items():
        images = outputs.images()
        attacked = FullPGD(norm, eps, steps).run(outputs.model, images, outputs.labels, seed=seed).images
        left = ImageArray(attacked, outputs.labels, outputs.test.classes)
        for target, other in models.items():
            fooled = predict(other.model, left)[1].argmax(1) != other.labels
            both = outputs.correct & other.correct
            asr = float(fooled[both].double().mean()) if bool(both.any()) else float("nan")
            rows.append({"source": source, "target": target, "attack": name, "asr": asr})
    return rows
