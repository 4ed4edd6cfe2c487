"""Picture files of all formats, modes and depths against Pillow's own conversions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from diswot_search.data.errors import DataError
from diswot_search.data.pictures import range_advice, read_header, read_pixels, rgb_pixels
from diswot_search.data.probe import create_probe
from diswot_search.data.splits import Splits, create_splits

from .helpers import SEEDS, pixels

ORIENTATION = 0x0112


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stored(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write(folder: Path, content: bytes, suffix: str, each: int = 6) -> Path:
    """Two classes, the first of grey PNGs, the second of copies of one file."""
    for place in range(each):
        for name in ("plain", "special"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(12, 12, place)).save(folder / "plain" / f"{place}.png")
        (folder / "special" / f"{place}{suffix}").write_bytes(content)
    return folder


def of_special(splits: Splits) -> list[np.ndarray]:
    images, labels = pixels(splits.train), splits.train.labels
    return list(images[labels == 1].permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        *(("WEBP", ".webp"), ("BMP", ".bmp"), ("TIFF", ".tif"), ("TIFF", ".TIFF"), ("GIF", ".gif"), ("PPM", ".ppm")),
        *(("TGA", ".tga"), ("PCX", ".pcx"), ("JPEG2000", ".jp2"), ("ICO", ".ico"), ("JPEG", ".jfif")),
        *(("PNG", ""), ("JPEG", ".photo"), ("WEBP", ".jpg")),
    ],
)
def test_every_format_of_pillow_is_read(tmp_path: Path, form: str, suffix: str) -> None:
    content = stored(Image.fromarray(noise(16, 16)), form)
    splits = create_splits(write(tmp_path, content, suffix), image_size=16)
    assert splits.classes == ("plain", "special")
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    if expected.shape == (16, 16, 3):
        assert all(np.array_equal(image, expected) for image in of_special(splits))
    assert splits.inventories[0].formats == {"PNG": 12} if form == "PNG" else {"PNG": 6, form: 6}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_modes_have_the_colours_that_pillow_gives_them(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(16, 16))
    image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image
    if mode == "LAB":
        image = Image.frombytes("LAB", (16, 16), noise(16, 16).tobytes())
    content = stored(image.convert(mode) if image.mode != mode else image, "PNG" if mode in "LA1PRGBA" else "TIFF")
    splits = create_splits(write(tmp_path, content, ".img"), image_size=16)
    expected = np.array(Image.open(io.BytesIO(content)).convert("RGB"))
    assert all(np.array_equal(image, expected) for image in of_special(splits))
    assert 6 <= splits.inventories[0].modes[Image.open(io.BytesIO(content)).mode] <= 12


def test_a_cmyk_jpeg_has_right_colours() -> None:
    colours = np.repeat(np.repeat(np.array([[[255, 0, 0], [0, 0, 255]], [[0, 255, 0], [255, 255, 255]]]), 8, 0), 8, 1)
    image = Image.fromarray(colours.astype(np.uint8))
    content = stored(image.convert("CMYK"), "JPEG", quality=100)
    assert np.abs(read_pixels(lambda: io.BytesIO(content), None).astype(int) - colours).max() < 12


def test_a_palette_with_transparency_keeps_its_colours_without_a_warning() -> None:
    image = Image.fromarray(noise(8, 8)).convert("P", palette=Image.Palette.ADAPTIVE)
    content = stored(image, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(read_pixels(lambda: io.BytesIO(content), None), np.array(image.convert("RGB")))


# Deep grey


@pytest.mark.parametrize(
    ("form", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32), ("TIFF", "f4")]
)
def test_deep_grey_images_are_refused_or_scaled(tmp_path: Path, form: str, dtype: Any) -> None:
    values = np.linspace(300, 4095, 256).round().reshape(16, 16).astype(dtype)
    content = stored(Image.fromarray(values), form)
    folder = write(tmp_path, content, ".tif" if form == "TIFF" else ".png")
    message = (
        r"6 images with 16- or 32-bit grey values, from 300 to 4095, such as 'special/0\..* grey_range.*\[300, 4095\]"
    )
    with pytest.raises(DataError, match=message):
        create_splits(folder, image_size=16)
    with pytest.raises(
        DataError, match=r"special/.*-bit grey values, from 300 to 4095.*Give the values .* grey_range="
    ):
        create_probe(folder, batch_size=8, image_size=16)
    splits = create_splits(folder, image_size=16, grey_range=[300, 4095])
    expected = np.rint((values.astype(np.float64) - 300) / 3795 * 255)
    for image in of_special(splits):
        assert np.abs(image - expected[..., None]).max() <= 0.5 + 1e-9
        assert (image.min(), image.max()) == (0, 255)
    assert splits.config()["grey_range"] == [300, 4095]
    assert splits.inventories[0].bits == {"8": 6, "16" if dtype is np.uint16 else "32": 6}
    probe = create_probe(folder, batch_size=8, image_size=16, grey_range=[300, 4095])
    assert len(probe.images.unique()) > 100
    streamed = create_splits(folder, image_size=16, grey_range=[300, 4095], resident_limit=0, workers=0)
    assert torch.equal(pixels(streamed.train), pixels(splits.train))


def test_values_outside_the_range_are_cut_with_a_notice(tmp_path: Path) -> None:
    content = stored(Image.fromarray(np.linspace(0, 5000, 256).reshape(16, 16).astype(np.uint16)), "PNG")
    with pytest.warns(UserWarning, match="grey values from 0 to 5000 are cut at 1000 and 4000"):
        splits = create_splits(write(tmp_path, content, ".png"), image_size=16, grey_range=(1000, 4000))
    with pytest.warns(UserWarning, match="grey values from 0 to 5000 are cut at 1000 and 4000"):
        probe = create_probe(tmp_path, batch_size=8, image_size=16, grey_range=(1000, 4000))
    assert probe.inventory is not None
    assert any("0 to 5000; 1000 to 4000 are read as black to white" in note for note in probe.inventory.notes)
    assert {0, 255} <= set(np.unique(of_special(splits)).tolist())


@pytest.mark.parametrize("grey_range", [5, [1], [3, 2], [0, float("nan")], ["a", "b"], [0, 1, 2]])
def test_bad_ranges_are_refused(grey_range: Any) -> None:
    for create in (create_splits, create_probe):
        with pytest.raises(ValueError, match=r"grey_range is .*; it must be (two numbers|a list of numbers)"):
            create("digits", grey_range=grey_range)


@given(SEEDS, st.integers(0, 60_000), st.integers(1, 5000))
@settings(max_examples=30)
def test_scaling_keeps_order_and_ends(seed: int, low: int, width: int) -> None:
    values = np.random.default_rng(seed).integers(low, low + width + 1, 64).astype(np.int32)
    values[:2] = low, low + width
    grey = rgb_pixels(Image.fromarray(values.reshape(8, 8)), (low, low + width))[..., 0].ravel()
    assert grey[:2].tolist() == [0, 255]
    assert (np.diff(grey[np.argsort(values, kind="stable")].astype(int)) >= 0).all()


def test_colour_of_16_bits_is_said_to_be_read_at_8(tmp_path: Path) -> None:
    # Pillow cannot write 16-bit colour, so the file is put together by hand: a grey PNG, declared and stored as RGB.
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">24H", *([65535, 0, 32768] * 8)) for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    splits = create_splits(write(tmp_path, content, ".png"), image_size=8)
    assert of_special(splits)[0][0, 0].tolist() == [255, 0, 128]
    assert splits.inventories[0].bits == {"8": 6, "16": 6}
    assert "6 images of 16-bit colour, read at 8 bits" in splits.inventories[0].notes


# Orientation


@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP"]))
@settings(max_examples=60)
def test_pictures_are_turned_upright(orientation: int, height: int, width: int, form: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = stored(Image.fromarray(noise(height, width)), form, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert np.array_equal(read_pixels(lambda: io.BytesIO(content), None), expected)
    header = read_header(lambda: io.BytesIO(content))
    assert not isinstance(header, str)
    assert header.size == expected.shape[:2]
    assert header.is_turned == (orientation > 1)


def test_turned_photos_are_counted(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = stored(Image.fromarray(noise(8, 16)), "JPEG", exif=exif)
    splits = create_splits(write(tmp_path, content, ".jpg"), image_size=8)
    assert "6 images turned upright, as EXIF says" in splits.inventories[0].notes
    assert splits.inventories[0].sizes == {"12 x 12": 6, "16 x 8": 6}


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff"],
)
def test_broken_metadata_turns_nothing(exif: bytes) -> None:
    image = Image.fromarray(noise(8, 16))
    content, plain = stored(image, "JPEG", exif=exif), stored(image, "JPEG")
    expected = np.array(Image.open(io.BytesIO(plain)).convert("RGB"))
    assert np.array_equal(read_pixels(lambda: io.BytesIO(content), None), expected)


# Damage


@given(st.data())
@settings(max_examples=60)
def test_cut_files_are_found_before_they_are_read(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
    content = stored(Image.fromarray(noise(24, 24)), form)
    cut = content[: data.draw(st.integers(0, len(content) * 9 // 10))]
    assert isinstance(read_header(lambda: io.BytesIO(cut)), str)
    assert not isinstance(read_header(lambda: io.BytesIO(content)), str)


def test_files_with_something_behind_the_picture_are_read() -> None:
    content = stored(Image.fromarray(noise(24, 24)), "JPEG") + b"<!-- a comment behind the picture -->"
    assert not isinstance(read_header(lambda: io.BytesIO(content)), str)


def test_no_picture_runs_a_program() -> None:
    from diswot_search.data.pictures import picture_suffixes, readable_formats

    assert not {"EPS", "WMF", "MPEG"} & set(readable_formats())
    assert not {".eps", ".ps", ".mpg", ".txt", ".pdf"} & picture_suffixes()
    assert isinstance(read_header(lambda: io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")), str)


@pytest.mark.parametrize(
    ("low", "high", "whole"),
    [(0.2, 0.9, ", or [0, 1] for"), (300, 4095, ", or [0, 65535] for"), (-1000, 3000, ""), (0, 1e6, "")],
)
def test_the_advice_on_a_range_is_for_the_values_that_are_there(low: float, high: float, whole: str) -> None:
    advice = range_advice(low, high)
    assert f"grey_range=[{low:g}, {high:g}]{whole}" in advice
    assert advice.count("[") == 1 + bool(whole)
