"""Images of every kind that files hold, by the range of their type."""

import io

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("regfast.models._torchvision", exc_type=ImportError)

from regfast.data import load_images  # noqa: E402
from regfast.models.preprocess import Preprocess, as_rgb  # noqa: E402

GRAY = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040).astype(np.uint16)  # up to 65520


def reopened(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_are_rescaled(kind, order):
    image = reopened(Image.fromarray(GRAY.astype(order)), kind)
    assert image.mode.startswith("I")
    rgb = np.asarray(as_rgb(image)).astype(int)
    assert rgb.shape == (8, 8, 3) and np.array_equal(rgb[..., 0], np.rint(GRAY / 257)) and (rgb.std(2) == 0).all()


def test_floats_lie_in_the_unit_interval():
    unit = (GRAY / 65535).astype(np.float32)
    rgb = np.asarray(as_rgb(reopened(Image.fromarray(unit), "TIFF")))
    assert np.array_equal(rgb[..., 1], np.rint(GRAY / 257))
    for bad in (unit * 255, unit - 0.1, np.full((8, 8), np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"float pixels must lie in \[0, 1\]"):
            as_rgb(Image.fromarray(bad))


def test_32_bit_integers_have_no_white():
    with pytest.raises(ValueError, match="no known white"):
        as_rgb(reopened(Image.fromarray(GRAY.astype(np.int32)), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_as_pil_converts_them(mode):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert("L")
    image = picture.convert(mode) if mode != "PA" else picture.convert("P").convert("PA")
    assert as_rgb(image).mode == "RGB" and as_rgb(image).tobytes() == image.convert("RGB").tobytes()


def folder_of(tmp_path, **files):
    (tmp_path / "class").mkdir()
    for name, content in files.items():
        (tmp_path / "class" / name.replace("_", ".")).write_bytes(content)
    return load_images("imagefolder", tmp_path)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_folder_of_odd_files(tmp_path):
    """Each is read by its type, or cannot be read and says so."""
    color = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 260, 3), dtype=np.uint8))
    wide = Image.fromarray(np.full((300, 260), 32768, np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [color, Image.new("RGB", color.size)]
    data = folder_of(
        tmp_path,
        a16_png=saved(wide, "PNG"),
        animated_webp=saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
        exif_jpg=saved(color, "JPEG", exif=exif, quality=95),
        plain_jpg=saved(color, "JPEG", quality=95),
        truncated_png=saved(color, "PNG")[:5000],
        zero_png=b"",
        z32_tiff=saved(Image.fromarray(np.full((300, 260), 70_000, np.int32)), "TIFF"),
    )
    names = [path.rsplit("/", 1)[1] for path, _ in data.folder.samples]
    pixels = {}
    for index, name in enumerate(names):
        if name.startswith(("truncated", "zero", "z32")):
            with pytest.raises(ValueError, match=f"{name} cannot be read"):
                data[index]
        else:
            pixels[name] = data[index][0]
    assert pixels["a16.png"].unique().tolist() == pytest.approx([128 / 255])
    expected = Preprocess()(color)
    torch.testing.assert_close(pixels["animated.webp"], expected)
    assert torch.equal(pixels["exif.jpg"], pixels["plain.jpg"])  # as stored, not turned


@pytest.mark.parametrize("size", [(1, 6000), (6000, 1)])
def test_a_line_of_pixels_takes_little_memory(size, monkeypatch):
    """6,000 pixels by 1 resized whole are 1.5 million by 256."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    made = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, *rest: made.append(size) or resize(self, size, *rest))
    assert Preprocess()(image).shape == (3, 224, 224)
    assert made and max(width * height for width, height in made) <= 16 * 256 * 256


@pytest.mark.parametrize("size", [(40, 600), (600, 41), (30, 481)])
def test_long_images_keep_their_middle(size):
    """Up to 16 : 1 as torchvision has it; beyond it the same middle, to the resampling of half a pixel."""
    x = np.linspace(0, 255, max(size))
    pixels = np.broadcast_to(x[:, None] if size[1] > size[0] else x[None], size[::-1]).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    from torchvision.transforms import functional

    plain = functional.to_tensor(functional.center_crop(functional.resize(image, 256), 224))
    exact = max(size) <= 16 * min(size)
    torch.testing.assert_close(Preprocess()(image), plain, atol=0 if exact else 2 / 255, rtol=0)
