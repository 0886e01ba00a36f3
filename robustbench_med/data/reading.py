"""Image files as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import Progress

from robustbench_med.util.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class ImageSet:
    """Images of one modality under the publisher's file names.

    Attributes:
        names: M distinct file names.
        pixels: uint8 (M, C, S, S).
        digests: per name the SHA-256 of the decoded pixels at full size.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    digests: Mapping[str, str]


def read_images(files: Mapping[str, Path], channels: int, size: int, what: str) -> ImageSet:
    """Read, shrink and hash image files; a progress bar is shown on stderr.

    Args:
        files: per name under which the image is known, its file.
        channels: 3 for colour, 1 for grey.
        size: side S of the stored square, pixels.

    Raises:
        UserError: an image cannot be decoded; names the first and says how many there are.
    """
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    digests: dict[str, str] = {}
    broken: list[Path] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for row, (name, path) in enumerate(progress.track(files.items(), description=f"reading {what}")):
            try:
                pixels[row], digests[name] = _read_image(path, channels, size)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                broken.append(path)
    if broken:
        raise UserError(
            f"{broken[0]} is not a readable image ({len(broken)} of {len(files)} {what} are not); "
            "download them again"
        )
    return ImageSet(tuple(files), pixels, digests)


def _read_image(path: Path, channels: int, size: int) -> tuple[NDArray[np.uint8], str]:
    """One image: uint8 (C, S, S), and the SHA-256 of its pixels before it was made smaller."""
    with Image.open(path) as opened:
        image = opened.convert("RGB" if channels == 3 else "L")
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
    # fit() cuts out the centred square and resizes it, averaging over all source pixels.
    square = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(square, np.uint8).reshape(size, size, channels)
    return pixels.transpose(2, 0, 1), digest
