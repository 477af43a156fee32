"""Adversarial images as PNG files: rounded to 8 bits without leaving the ball, and judged again as they lie there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from safetensors import safe_open
from torch import Tensor

from regfast.attacks.lanes import per_lane
from regfast.attacks.losses import predicted
from regfast.evaluation.run import EvaluationResult
from regfast.evaluation.samples import Dataset, image_shape, load_chunk
from regfast.evaluation.targets import target_classes
from regfast.evaluation.worker import clean_logits
from regfast.runs.errors import InputError, MissingExtra
from regfast.runs.files import make_folder, read_json, replacing, write_table

__all__ = ["export_png", "rounded_inside"]

_ROUNDING = 1e-4  # of float32 at 255 levels


def rounded_inside(images: Tensor, clean: Tensor, norm: str, eps: float) -> tuple[Tensor, Tensor]:
    """`images` at 8 bits: each value at its nearest level where that stays in the ball, else rounded toward the clean.

    Toward the clean one no coordinate moves away from it, so every norm of the perturbation shrinks or stays. A clean
    value that is no level itself (an image resized in floating point) may have no level between; it takes its own
    nearest level there, and the ball is checked.

    Args:
        images: (N, C, H, W) in [0, 1].
        clean: (N, C, H, W) in [0, 1].
        norm: "linf", "l2" or "l1", in which eps is measured.
        eps: radius.

    Returns:
        (N, C, H, W) uint8, and (N,) bool: inside the ball.
    """
    images, clean = 255 * images.double(), 255 * clean.double()
    toward = torch.where(images >= clean, (images + _ROUNDING).floor(), (images - _ROUNDING).ceil())
    passed = torch.where(images >= clean, toward < clean - _ROUNDING, toward > clean + _ROUNDING)
    toward = torch.where(passed, clean.round(), toward)
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]

    def inside(levels: Tensor) -> Tensor:
        radius = torch.linalg.vector_norm((levels - clean).flatten(1), order, dim=1) / 255
        return radius <= eps * (1 + 1e-4) + 1e-6

    nearest = images.round()
    levels = torch.where(per_lane(inside(nearest), images), nearest, toward)
    return levels.clamp(0, 255).to(torch.uint8), inside(levels)


def export_png(
    result: EvaluationResult,
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    batch: int = 64,
) -> dict[str, int]:
    """Write every broken image of a run with saved images to `png/ATTACK-NORM-EPS/SAMPLE.png`.

    Rounding to 8 bits can save an image: each is shown to the model as the file holds it, and `png.parquet` says what
    became of it (sample, attack, norm, eps, file, inside, prediction, success).

    Returns:
        `written`: files; `broken`: those inside the ball that the model still gets wrong.

    Raises:
        InputError: if the run kept no images, or they have neither 1 nor 3 channels.
    """
    parts = sorted((result.folder / "images").glob("*.safetensors"))
    rows = result.rows()
    fallen = rows.filter(pc.and_(rows["success"], pc.invert(rows["carried"])))
    if fallen.num_rows and not parts:
        raise InputError(f"{result.folder} kept no adversarial images: evaluate with save_images=True (--save-images)")
    target = read_json(result.folder / "run.json")["identity"].get("target")
    seed = result.summary["seed"]
    judged: list[dict[str, Any]] = []
    for part in parts:
        with safe_open(part, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 (it is no mapping)
                if not key.endswith(" samples"):
                    attack, norm, eps = key.rsplit(" ", 2)
                    ids, images = stored.get_tensor(f"{key} samples"), stored.get_tensor(key)
                    mine = pc.and_(pc.equal(fallen["attack"], attack), pc.equal(fallen["norm"], norm))
                    here = fallen.filter(pc.and_(mine, pc.less(pc.abs(pc.subtract(fallen["eps"], float(eps))), 1e-6)))
                    broken = torch.isin(ids, torch.from_numpy(here["sample"].to_numpy().copy()))
                    for samples, points in zip(ids[broken].split(batch), images[broken].split(batch), strict=True):
                        judged += _write(
                            result.folder, model, dataset, samples, points, (attack, norm, float(eps)), target, seed,
                            torch.device(device),
                        )  # fmt: skip
    if judged:
        write_table(result.folder / "png.parquet", judged)
    return {"written": len(judged), "broken": sum(row["success"] for row in judged)}


def _write(
    folder: Path,
    model: Callable[[Tensor], Tensor],
    dataset: Dataset,
    samples: Tensor,
    points: Tensor,
    attack: tuple[str, str, float],
    target: int | str | None,
    seed: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("writing PNG files needs Pillow: pip install 'regfast[vision]'") from error
    name, norm, eps = attack
    ids = samples.tolist()
    if not ids:
        return []
    if points.shape[1] not in (1, 3):
        raise InputError(f"a PNG holds images of 1 or 3 channels, these have {points.shape[1]}")
    chunk = load_chunk(dataset, ids, 2**62, image_shape(dataset, ids))
    levels, inside = rounded_inside(points, chunk.images, norm, eps)
    prediction = predicted(clean_logits(model, levels.float() / 255, device, len(ids)).cpu())
    wrong = prediction != chunk.labels
    if target is not None:
        logits = clean_logits(model, chunk.images, device, len(ids)).cpu()
        wrong = prediction == target_classes(target, chunk.labels, samples, logits, seed)
    place = folder / "png" / f"{name}-{norm}-{eps:.6g}"
    make_folder(place)
    rows = []
    for sample, image, held, seen, success in zip(
        ids, levels, inside.tolist(), prediction.tolist(), (inside & wrong).tolist(), strict=True
    ):
        path = place / f"{sample:06d}.png"
        pixels = image.permute(1, 2, 0).numpy()
        with replacing(path) as file:
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, format="PNG")
        rows.append(
            {
                "sample": sample, "attack": name, "norm": norm, "eps": eps, "file": str(path.relative_to(folder)),
                "inside": held, "prediction": seen, "success": success,
            }
        )  # fmt: skip
    return rows
