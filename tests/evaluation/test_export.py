"""Adversarial images that survive 8 bits."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from regfast.attacks import PGD
from regfast.data import ImageArray
from regfast.evaluation import evaluate
from regfast.evaluation.export import export_png, rounded_inside
from regfast.runs.errors import InputError
from tests.evaluation.toy import RowwiseLinear, Toy


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("linf", 2.5 / 255), ("l2", 0.3), ("l1", 3.0)])
def test_rounding_never_leaves_the_ball(norm, eps):
    torch.manual_seed(0)
    clean = torch.randint(0, 256, (64, 3, 8, 8)).float() / 255
    order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
    direction = torch.randn_like(clean)
    direction *= eps / torch.linalg.vector_norm(direction.flatten(1), order, dim=1).view(-1, 1, 1, 1)
    images = (clean + direction).clamp(0, 1)
    levels, inside = rounded_inside(images, clean, norm, eps)
    moved = (levels.float() / 255 - clean).flatten(1)
    assert levels.dtype == torch.uint8 and bool(inside.all())
    assert float(torch.linalg.vector_norm(moved, order, dim=1).max()) <= eps * (1 + 1e-4)
    assert float((levels.float() / 255 - images).abs().max()) < 1 / 255, "each value moves less than one level"
    assert bool(((moved * direction.flatten(1)) >= -1e-6).all()), "no value crosses the clean one"


def test_levels_that_are_there_already_stay():
    clean = torch.tensor([0.0, 100.0, 255.0]).view(1, 1, 1, 3) / 255
    images = torch.tensor([8.0, 92.0, 247.0]).view(1, 1, 1, 3) / 255
    assert rounded_inside(images, clean, "linf", 8 / 255)[0].flatten().tolist() == [8, 92, 247]


def test_a_clean_image_between_levels_may_not_fit():
    clean = torch.full((1, 1, 1, 1), 100.4 / 255)
    levels, inside = rounded_inside(clean + 0.1 / 255, clean, "linf", 0.1 / 255)
    assert levels.item() == 100 and not bool(inside)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = RowwiseLinear().eval()
    source = Toy()
    images = torch.stack([source[index][0] for index in range(24)])
    data = ImageArray((images * 255).round().to(torch.uint8), model(images).argmax(1), [str(k) for k in range(10)])
    out = tmp_path_factory.mktemp("run")
    attacks = [PGD("linf", eps / 255, steps=5) for eps in (4, 16)]
    return model, data, evaluate(model, data, attacks, out=out, save_images=True, progress=False, device="cpu")


def test_every_broken_image_becomes_a_file_that_is_judged_again(saved):
    model, data, result = saved
    rows = result.rows().to_pylist()
    broken = {(row["sample"], round(row["eps"] * 255)) for row in rows if row["success"] and not row["carried"]}
    assert broken, "the attack breaks something"
    made = export_png(result, model, data)
    judged = pq.read_table(result.folder / "png.parquet").to_pylist()
    assert {(row["sample"], round(row["eps"] * 255)) for row in judged} == broken and made["written"] == len(broken)
    assert made["broken"] == sum(row["success"] for row in judged) > 0
    for row in judged:
        pixels = torch.from_numpy(np.array(Image.open(result.folder / row["file"]))).float() / 255
        pixels = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        image, label = data[row["sample"]]
        prediction = int(model(pixels.unsqueeze(0)).argmax())
        assert row["inside"] and float((pixels - image).abs().max()) <= row["eps"] + 1e-6
        assert prediction == row["prediction"] and row["success"] == (prediction != label)


def test_a_run_without_images_is_named(saved, tmp_path):
    model, data, _ = saved
    result = evaluate(model, data, [PGD("linf", 16 / 255, steps=5)], out=tmp_path, progress=False, device="cpu")
    with pytest.raises(InputError, match="save_images=True"):
        export_png(result, model, data)


def test_the_nearest_levels_are_taken_where_they_lie_inside():
    clean = torch.full((1, 1, 1, 2), 100 / 255)
    images = clean + torch.tensor([7.7, 2.6]).view(1, 1, 1, 2) / 255
    assert rounded_inside(images, clean, "linf", 8 / 255)[0].flatten().tolist() == [108, 103]
    assert rounded_inside(images, clean, "linf", 7.8 / 255)[0].flatten().tolist() == [107, 102]
