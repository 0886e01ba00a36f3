"""Image files as 8-bit grey or RGB: one rule for every pixel format, and a word for every rule that was used.

| in the file | becomes |
|---|---|
| 8 bits, grey or RGB | itself |
| grey where colour is wanted | repeated in three channels |
| colour where grey is wanted | 0.299 R + 0.587 G + 0.114 B |
| 1 bit | 0 and 255 |
| palette | its colours |
| transparency of any kind | laid over black |
| 16 bits, grey | value / 257 |
| 16 bits, grey, no value above 4095 | value * 255 / 4095: it holds 12 bits |
| 16 bits, grey, no value above 255 | itself: it holds 8 bits |
| 16 bits, colour | the upper byte of each channel |
| 32-bit integers | as 16 bits if they fit into them, else refused: their full scale is not known |
| floating point | value * 255 if all lie in 0 to 1, else refused likewise |
| CMYK, YCbCr, HSV, LAB | RGB; colour profiles are not applied |
| several frames or pages | the first |
| EXIF orientation | turned as it says |

Who asks for it gets grey of more than 8 bits as 0 to 65535 instead, and may say its full scale.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, TiffImagePlugin

# What an image file may be, by its content; a file's suffix says only whether it is looked at.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MOST_PIXELS = 89_000_000  # about where Pillow starts to warn of files that decompress without end
TOO_LARGE = f"is larger than {MOST_PIXELS // 10**6} megapixels"
SIXTEEN_BITS, TWELVE_BITS, EIGHT_BITS = 65535, 4095, 255
INTEGERS = {
    EIGHT_BITS: "8 bits in 16 (no value above 255), taken as they are",
    TWELVE_BITS: "12 bits in 16 (no value above 4095), times 255/4095",
    SIXTEEN_BITS: "16 bits, divided by 257",
}
NO_SCALE = "has values whose full scale is not known"
OVER_BLACK = "transparency, laid over black"
UPPER_BYTE = "16 bits a channel, upper byte taken"
WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation

# What Pillow's decoders raise on bytes that are no image, or half of one (found by damaging files at random).
_DECODING_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError),
    *(OverflowError, ZeroDivisionError, RuntimeError, MemoryError, struct.error, zlib.error),
    *(Image.DecompressionBombError, ImageCms.PyCMSError),
)


class UnusableImageError(Exception):
    """An image that is not read.

    Attributes:
        fault: why, in words that follow the file's name; the message may say more.
    """

    def __init__(self, fault: str, more: str = "") -> None:
        super().__init__(f"{fault}: {more}" if more else fault)
        self.fault = fault


@dataclass(frozen=True)
class Scale:
    """Which values of a file are black and white.

    Attributes:
        low, high: become 0 and 1.
        cut: what lies beyond is cut off (a window); otherwise it is an error.
    """

    low: float
    high: float
    cut: bool = False

    def shares(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Values as shares of the scale, 0 to 1.

        Raises:
            UnusableImageError: some lie beyond it.
        """
        found = (values.astype(np.float64) - self.low) / (self.high - self.low)
        if self.cut:
            return found.clip(0, 1)
        if not (found.min() >= 0 and found.max() <= 1):  # also when one of them is NaN
            span = f"{values.min():g} to {values.max():g}"
            raise UnusableImageError(
                "has values outside its range", f"{span}, not {self.low:g} to {self.high:g}"
            )
        return found


@dataclass(frozen=True)
class Decoded:
    """A decoded image.

    Attributes:
        image: mode "RGB" or "L", at full size; or "F", grey from 0 to 65535.
        rules: what had to be done to get there, in words, for people.
        scaled: whether the file has grey of more than 8 bits, for which a ``Scale`` is meant.
    """

    image: Image.Image
    rules: tuple[str, ...]
    scaled: bool = False


def decode(path: Path, channels: int, deep: bool = False, scale: Scale | None = None) -> Decoded:
    """Decode one image file by the rules above.

    Args:
        channels: 3 for RGB, 1 for grey.
        deep: keep more than 8 bits of grey.
        scale: of grey of more than 8 bits, where it is known.

    Raises:
        UnusableImageError: no image, half of one, one of too many pixels, or one whose full scale is unknown.
    """
    with _decoding(), Image.open(path, formats=FORMATS) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise UnusableImageError(TOO_LARGE)
        rules = _rules_of_file(opened)
        photometric = getattr(opened, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION)
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if UPPER_BYTE in rules and 0 < max(high for _, high in _extrema(image)) <= TWELVE_BITS >> 8:
        raise UnusableImageError(NO_SCALE, "16 bits a channel, and no value above 4095")
    scaled = image.mode.startswith("I") or image.mode == "F"
    if scaled:
        most = SIXTEEN_BITS if deep and channels == 1 else EIGHT_BITS
        grey = _scaled(image, photometric == WHITE_IS_ZERO, rules, most, scale)
        if most == SIXTEEN_BITS:
            return Decoded(Image.fromarray(grey.astype(np.float32)), tuple(rules), scaled=True)
        image = Image.fromarray(grey.astype(np.uint8))
    image = _over_black(_eight_bits(image, rules), rules)
    return Decoded(_in_channels(image, channels, rules), tuple(rules), scaled)


def header(path: Path) -> tuple[int, int, int]:
    """Channels (1 or 3), height and width of what ``decode`` returns, without decoding the pixels.

    Raises:
        UnusableImageError: it is no image.
    """
    with _decoding(), Image.open(path, formats=FORMATS) as opened:
        width, height = opened.size
        grey = opened.mode in ("1", "L", "LA", "La", "F") or opened.mode.startswith("I")
        if opened.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9):
            width, height = height, width
    return 1 if grey else 3, height, width


@contextmanager
def _decoding() -> Iterator[None]:
    """Say in Pillow's place what is wrong with a file; its warnings say nothing that the rules do not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnusableImageError(TOO_LARGE) from error
    except _DECODING_ERRORS as error:
        raise UnusableImageError("is not a readable image") from error


def _rules_of_file(opened: ImageFile.ImageFile) -> list[str]:
    """What the file's header alone decides."""
    rules = []
    # First, because to look for EXIF loads some formats, and what is loaded has forgotten its bits.
    deep = any(";16" in str(tile[3]) for tile in opened.tile)
    if opened.mode in ("RGB", "RGBA", "LA", "CMYK") and deep:
        rules.append(UPPER_BYTE)
    if getattr(opened, "n_frames", 1) > 1:
        rules.append("first of several frames")
    if opened.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        rules.append("turned as EXIF says")
    return rules


def _extrema(image: Image.Image) -> list[tuple[float, float]]:
    """Lowest and highest value of each channel."""
    found: Any = image.getextrema()
    return list(found) if isinstance(found[0], tuple) else [found]


def _scaled(
    image: Image.Image, white_is_zero: bool, rules: list[str], most: int, scale: Scale | None
) -> NDArray[np.float64]:
    """Values of more than 8 bits as whole numbers from 0 to ``most``, (H, W); adds the rule that was used."""
    values = np.asarray(image)
    if scale is not None:
        rules.append(f"values {scale.low:g} to {scale.high:g} taken as black to white")
        grey = scale.shares(values) * most
    else:
        grey = values.astype(np.float64) * (most / _full_scale(image.mode, values, rules))
    grey = most - grey if white_is_zero else grey
    key = image.info.get("transparency")
    if isinstance(key, int) and (values == key).any():
        rules.append(OVER_BLACK)
        grey[values == key] = 0
    return np.asarray(np.rint(grey), np.float64)


def _full_scale(mode: str, values: NDArray[Any], rules: list[str]) -> int:
    """The value that is white, if that can be told; adds the rule that was used."""
    low, high = float(values.min()), float(values.max())
    if mode == "F":
        if not (low >= 0 and high <= 1):  # also when one of them is NaN
            raise UnusableImageError(NO_SCALE, f"floating point from {low:g} to {high:g}, not 0 to 1")
        rules.append("floating point 0 to 1, times 255")
        return 1
    if low < 0 or high > SIXTEEN_BITS:
        raise UnusableImageError(NO_SCALE, f"integers from {low:g} to {high:g}, not 0 to 65535")
    full = next(most for most in (EIGHT_BITS, TWELVE_BITS, SIXTEEN_BITS) if high <= most)
    rules.append(INTEGERS[full])
    return full


def _eight_bits(image: Image.Image, rules: list[str]) -> Image.Image:
    """The image in grey, RGB or one of these with transparency; adds the rule that was used."""
    if image.mode in ("P", "PA"):
        rules.append("palette, made colours")
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "1":
        rules.append("1 bit, made 0 and 255")
        return image.convert("RGBA" if image.has_transparency_data else "L")
    if image.mode == "LAB":
        rules.append("LAB, made RGB")
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, rgb, "LAB", "RGB").apply(image)
    if image.mode in ("CMYK", "YCbCr", "HSV"):
        rules.append(f"{image.mode}, made RGB")
        return image.convert("RGB")
    # Premultiplied values are undone first; what is left is grey or RGB, with or without transparency.
    return image.convert({"La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}.get(image.mode, image.mode))


def _over_black(image: Image.Image, rules: list[str]) -> Image.Image:
    """The image without transparency; adds the rule that was used."""
    if not image.has_transparency_data:
        return image
    whole = image.convert("RGBA")
    if _extrema(whole)[3] != (255, 255):
        rules.append(OVER_BLACK)
    black = Image.new("RGBA", whole.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, whole).convert("L" if image.mode in ("L", "LA") else "RGB")


def _in_channels(image: Image.Image, channels: int, rules: list[str]) -> Image.Image:
    """Grey or RGB, as wanted; adds the rule that was used."""
    mode = "RGB" if channels == 3 else "L"
    if image.mode == mode:
        return image
    rules.append("grey, repeated in three channels" if mode == "RGB" else "colour, made grey")
    return image.convert(mode)
