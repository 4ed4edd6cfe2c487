"""Picture files: which formats are read, what a file's header says, and its pixels as 8-bit RGB."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from .errors import DataError

GreyRange = tuple[float, float]
"""The values of deep grey pictures that become black and white."""

Opener = Callable[[], BinaryIO]
"""Opens the file of a picture."""

_NOT_READ = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"))
"""Formats of Pillow that have no pixels without another program; EPS would even run one on the file."""

_WITHOUT_PILLOW = frozenset(
    (".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dng", ".exr", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raw", ".rw2")
)
"""Suffixes of pictures that Pillow reads with a plugin only, or not at all."""

_SNIFFED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are recognised by their first bytes in files with another suffix, or none."""

_DEEP = {"I;16": 16, "I;16B": 16, "I;16L": 16, "I;16N": 16, "I": 32, "F": 32}
"""Bits of the grey modes that have more values than a byte."""

_WITH_ALPHA = frozenset(("LA", "PA", "RGBA", "La", "RGBa"))

_ORIENTATION = 0x0112
"""Tag of EXIF that says how a camera was held."""

_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""What turns a picture of each EXIF orientation upright."""

_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError),
    *(struct.error, Image.DecompressionBombError, NotImplementedError),
)
"""What Pillow raises for files that are damaged or are no pictures."""


class DeepGreyError(DataError):
    """A picture has more grey values than a byte, and nothing says which of them are black and white."""


@dataclass(frozen=True)
class Header:
    """The facts in the header of a picture.

    Attributes:
        size: Height and width in pixels, upright.
        mode: Mode of Pillow, such as "RGB", "L", "P" or "I;16".
        bits: Bits of one channel in the file.
        form: Format of Pillow, such as "PNG".
        is_turned: Whether EXIF says that the stored pixels are not upright.
        has_alpha: Whether pixels may be transparent.
        has_more: Whether more frames or pages follow the first.
    """

    size: tuple[int, int]
    mode: str
    bits: int
    form: str
    is_turned: bool
    has_alpha: bool
    has_more: bool

    @property
    def is_deep(self) -> bool:
        """Whether it has more grey values than a byte."""
        return self.mode in _DEEP


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats that are read, common ones first: those of Pillow and its plugins that need no other program."""
    Image.init()
    others = (form for form in Image.OPEN if form not in _NOT_READ)
    return tuple(dict.fromkeys((*(form for form in _SNIFFED if form in Image.OPEN), *others)))


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of the formats that are read, in lower case, with the dot."""
    forms = set(readable_formats())
    return frozenset(suffix.lower() for suffix, form in Image.registered_extensions().items() if form in forms)


def is_foreign_picture(suffix: str) -> bool:
    """Whether a suffix is of pictures that cannot be read here."""
    registered = Image.registered_extensions()
    return suffix not in picture_suffixes() and (suffix in _WITHOUT_PILLOW or suffix in registered)


def looks_like_picture(start: bytes) -> bool:
    """Whether a file that begins with these (at least 16) bytes is of a common format, whatever its suffix."""
    readable_formats()
    accepts = (Image.OPEN[form][1] for form in _SNIFFED if form in Image.OPEN)
    return any(accept is not None and accept(start) is True for accept in accepts)


def read_header(open_file: Opener) -> Header | str:
    """The facts in the header of a picture, or why it cannot be read.

    The pixels are decoded only where the end of the file looks cut.
    """
    try:
        with open_file() as file:
            if not file.read(1):
                return "the file is empty"
            file.seek(0)
            with _opened(file) as image:
                header = _header(image)
                if not _is_whole(file, header.form):
                    image.load()
            _check_convertible(header.mode)
            return header
    except Image.UnidentifiedImageError:
        return "it is no picture"
    except MemoryError:
        return "it is too large for the memory"
    except _UNREADABLE as error:
        return str(error) or type(error).__name__


def read_pixels(open_file: Opener, grey_range: GreyRange | None) -> np.ndarray:
    """The pixels of a picture file, upright.

    Args:
        open_file: Opens the file.
        grey_range: The values of deep grey pictures that become 0 and 255; None refuses such pictures.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DeepGreyError: The picture is deep grey, and there is no range.
        OSError: The picture cannot be read.
    """
    try:
        with open_file() as file, _opened(file) as image:
            return rgb_pixels(image, grey_range)
    except (DataError, OSError):
        raise
    except _UNREADABLE as error:
        raise OSError(str(error) or type(error).__name__) from error


def rgb_pixels(image: Image.Image, grey_range: GreyRange | None = None) -> np.ndarray:
    """The pixels of an opened picture, upright; see `read_pixels`.

    Colours are those that the file stores: transparency is ignored, and CMYK is converted without a profile.
    """
    image.load()
    turn = _TURNS.get(_orientation(image))
    if image.mode in _DEEP:
        if grey_range is None:
            low, high = _extent(image)
            raise DeepGreyError(
                f"it has {_DEEP[image.mode]}-bit grey values, from {low:g} to {high:g}. {range_advice(low, high)}"
            )
        pixels = np.repeat(_scaled(_values(image), grey_range)[..., None], 3, axis=2)
    else:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # the same colours, without Pillow's warning that transparency is lost
        pixels = np.array(image.convert("RGB"))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def checked_range(grey_range: Sequence[float] | None) -> GreyRange | None:
    """The range of deep grey images as two numbers.

    Raises:
        DataError: It is not two finite numbers, the smaller one first.
    """
    if grey_range is None:
        return None
    try:
        low, high = map(float, grey_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise DataError(f"grey_range is {grey_range!r}; it must be two numbers, the smaller one first, as [0, 4095].")
    return low, high


def range_advice(low: float, high: float) -> str:
    """The ways to say which values of deep grey pictures are black and white."""
    if low >= 0 and high <= 1:
        whole = ", or [0, 1] for shares of the full scale"
    else:
        whole = ", or [0, 65535] for all of 16 bits" if low >= 0 and high < 2**16 else ""
    return (
        f"Give the values that become black and white, grey_range=[{low:g}, {high:g}]{whole}; use one range for "
        "all data of a task"
    )


def grey_extent(files: Sequence[Opener]) -> tuple[float, float]:
    """The smallest and the largest value of deep grey pictures.

    Raises:
        OSError: A picture cannot be read.
    """
    lows, highs = [], []
    for open_file in files:
        try:
            with open_file() as file, _opened(file) as image:
                low, high = _extent(image)
        except OSError:
            raise
        except _UNREADABLE as error:
            raise OSError(str(error) or type(error).__name__) from error
        lows.append(low)
        highs.append(high)
    return min(lows), max(highs)


@cache
def _check_convertible(mode: str) -> None:
    """Raise Pillow's error if colours of this mode cannot become RGB."""
    Image.new(mode, (1, 1)).convert("RGB")


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """A picture, while Pillow keeps quiet about odd metadata, which no pixel depends on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file, formats=readable_formats()) as image:
            yield image


def _header(image: Image.Image) -> Header:
    form = image.format or "?"
    # To ask a PNG for its EXIF decodes the whole of it where the header has none.
    turned = form == "TIFF" or "exif" in image.info
    orientation = _orientation(image) if turned else 1
    width, height = image.size
    if isinstance(image, TiffImageFile):  # in some versions Pillow gives its size as it is after turning
        width, height = (int(image.tag_v2[tag]) for tag in (256, 257))
    return Header(
        size=(width, height) if orientation in (5, 6, 7, 8) else (height, width),
        mode=image.mode,
        bits=_bits(image),
        form="JPEG" if form == "MPO" else form,  # a JPEG of a camera, with a preview behind it
        is_turned=orientation in _TURNS,
        has_alpha=image.mode in _WITH_ALPHA or "transparency" in image.info,
        has_more=form in ("GIF", "TIFF", "WEBP", "PNG", "AVIF") and bool(getattr(image, "is_animated", False)),
    )


def _bits(image: Image.Image) -> int:
    if image.mode == "1":
        return 1
    tiles = getattr(image, "tile", None) or [("", (), 0, "")]
    raw = tiles[0][3]
    raw_mode = str(raw[0] if isinstance(raw, tuple) and raw else raw)
    return 16 if ";16" in raw_mode else _DEEP.get(image.mode, 8)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _UNREADABLE:  # broken metadata says nothing of the pixels
        return 1


def _is_whole(file: BinaryIO, form: str) -> bool:
    """Whether the end of a file is that of a whole picture; False also where the format does not tell."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 64))
    end = file.read()
    if form == "JPEG":
        return end.rstrip(b"\0").endswith(b"\xff\xd9")
    if form == "PNG":
        return b"IEND" in end[-12:]
    if form == "GIF":
        return end.rstrip(b"\0").endswith(b";")
    if form == "WEBP":
        file.seek(4)
        return int.from_bytes(file.read(4), "little") + 8 <= size
    return False


def _values(image: Image.Image) -> np.ndarray:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise OSError("it has NaN or infinite values")
    return values


def _extent(image: Image.Image) -> tuple[float, float]:
    values = _values(image)
    return float(values.min()), float(values.max())


def _scaled(values: np.ndarray, grey_range: GreyRange) -> np.ndarray:
    """Grey values as bytes: the ends of the range become 0 and 255, and values outside are cut."""
    low, high = grey_range
    return np.rint((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
