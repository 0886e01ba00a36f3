"""Image files as arrays."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from robustbench_med.data.decoding import UnusableImageError, decode
from robustbench_med.data.folders import printable
from robustbench_med.data.notes import Note
from robustbench_med.util.errors import UserError
from robustbench_med.util.progress import progress_bar


@dataclass(frozen=True)
class ImageSet:
    """Images of one modality under the publisher's file names.

    Attributes:
        names: M distinct file names.
        pixels: uint8 (M, C, S, S).
        digests: per name the SHA-256 of the decoded pixels at full size.
        notes: what was done to images that did not come in as they are.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    digests: Mapping[str, str]
    notes: tuple[Note, ...] = ()


def read_images(files: Mapping[str, Path], channels: int, size: int, what: str) -> ImageSet:
    """Read, shrink and hash image files; a progress bar is shown on stderr.

    Args:
        files: per name under which the image is known, its file.
        channels: 3 for colour, 1 for grey.
        size: side S of the stored square, pixels.

    Raises:
        UserError: an image cannot be used; names the first, and says how many there are and why.
    """
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    digests: dict[str, str] = {}
    notes: list[Note] = []
    broken: list[tuple[Path, UnusableImageError]] = []
    with progress_bar() as bar:
        for row, (name, path) in enumerate(bar.track(files.items(), description=f"reading {what}")):
            try:
                decoded = decode(path, channels)
            except UnusableImageError as error:
                broken.append((path, error))
                continue
            pixels[row], digests[name] = _shrunk(decoded.image, channels, size)
            notes += [Note(name, rule) for rule in decoded.rules]
    if broken:
        path, fault = broken[0]
        counts = Counter(each.fault for _, each in broken).most_common()
        reasons = ": " + ", ".join(f"{count} {why}" for why, count in counts) if len(counts) > 1 else ""
        raise UserError(
            f"{printable(str(path))} {fault} ({len(broken)} of {len(files)} {what} cannot be used{reasons}); "
            "download or save them again, or take them away"
        )
    return ImageSet(tuple(files), pixels, digests, tuple(notes))


def _shrunk(image: Image.Image, channels: int, size: int) -> tuple[NDArray[np.uint8], str]:
    """One image: uint8 (C, S, S), and the SHA-256 of its pixels before it was made smaller."""
    digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
    # fit() cuts out the centred square and resizes it, averaging over all source pixels.
    square = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    pixels = np.asarray(square, np.uint8).reshape(size, size, channels)
    return pixels.transpose(2, 0, 1), digest
