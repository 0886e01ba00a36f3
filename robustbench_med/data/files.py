"""Files of a modality as one array: any format, one size, one number of channels, one full scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustbench_med.data.decoding import (
    IMAGE_SUFFIXES,
    INTEGERS,
    SIXTEEN_BITS,
    UnusableImageError,
    decode,
    header,
)
from robustbench_med.data.described import FILE, Input
from robustbench_med.data.folders import printable
from robustbench_med.data.medical import Axes, is_medical, read_scan, shape_of
from robustbench_med.data.notes import Note, summary
from robustbench_med.util.errors import UserError
from robustbench_med.util.progress import progress_bar

MOST_SIZES: Final = 4
"""Sizes that an error lists."""
MOST_BYTES: Final = 16 * 2**30
"""Of one split's values of one modality; more than that is not read at once."""


@dataclass(frozen=True)
class Form:
    """What all files of a modality are brought to.

    Attributes:
        shape: (C, H, W) or (C, D, H, W).
        said: what was guessed, a line each.
    """

    shape: tuple[int, ...]
    said: tuple[str, ...]


def is_picture(path: Path) -> bool:
    """Whether a file is looked at: an image by its suffix, or a scan."""
    return path.suffix.lower() in IMAGE_SUFFIXES or is_medical(path)


def shape_in_file(path: Path, axes: Axes) -> tuple[int, ...]:
    """Channels and sides of what a file holds, from its header.

    Raises:
        UnusableImageError: it is no image or scan.
    """
    return shape_of(path, axes) if is_medical(path) else header(path)


def form_of(name: str, files: Sequence[Path], wanted: Input, axes: Axes) -> Form:
    """The shape that all files of a modality are brought to.

    Args:
        files: of all splits: one data set has one form.

    Raises:
        UserError: files that cannot be read, or that differ in size while no size is given.
    """
    shapes: Counter[tuple[int, ...]] = Counter()
    broken: list[tuple[Path, UnusableImageError]] = []
    for path in files:
        try:
            shapes[shape_in_file(path, axes)] += 1
        except UnusableImageError as error:
            broken.append((path, error))
    _refuse(broken, len(files), name)
    said = []
    channels, colours = wanted.channels, {shape[0] for shape in shapes}
    if len({len(shape) for shape in shapes}) > 1:
        raise UserError(f"{name}: some files are images and some are volumes; make two data sets of them")
    if channels is None:
        channels = max(colours) if colours != {1, 3} else 3  # type: ignore[assignment]
        if colours == {1, 3}:
            grey = sum(count for shape, count in shapes.items() if shape[0] == 1)
            said.append(f"{name}: {grey} of {len(files)} files are grey, repeated in three channels")
        elif len(colours) > 1:
            raise UserError(f"{name}: files have {sorted(colours)} channels; keep those of one kind")
    inner = {shape[1:] for shape in shapes}
    if wanted.size is None and len(inner) > 1:
        raise UserError(f"{name}: files of {_sizes(shapes)}; resize them, or write size: 64 in {FILE}")
    sides = _sides(name, wanted.size, next(iter(inner)))
    if inner != {sides}:
        said.append(f"{name}: resized to {_times(sides)}, whatever the proportions were")
    return Form((channels or 1, *sides), tuple(said))


def read_pixels(path: Path, form: Form, wanted: Input, axes: Axes) -> tuple[NDArray[Any], tuple[str, ...]]:
    """One file in its form: uint8 or uint16 (C, …), and what was done to get there.

    Raises:
        UnusableImageError: see ``decode`` and ``read_scan``.
    """
    if is_medical(path):
        scan = read_scan(path, wanted.scale, axes)
        pixels, rules = scan.pixels, scan.rules
        if len(pixels) != form.shape[0]:
            raise UnusableImageError(f"has {len(pixels)} channels, not {form.shape[0]}")
        return _resized_array(pixels, form.shape[1:]), rules
    decoded = decode(path, form.shape[0], deep=True, scale=wanted.scale)
    image, sides = decoded.image, form.shape[1:]
    if wanted.window and not decoded.scaled:
        raise UnusableImageError("is an image of 8 bits, on which there is no window; drop it")
    if (image.height, image.width) != sides:
        # Averages over all source pixels when it makes an image smaller.
        image = image.resize((sides[1], sides[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    if image.mode == "F":
        pixels = np.rint(pixels).clip(0, SIXTEEN_BITS).astype(np.uint16)
    return pixels.reshape(*sides, form.shape[0]).transpose(2, 0, 1), decoded.rules


def read_files(
    name: str, files: Sequence[Path], form: Form, wanted: Input, axes: Axes
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """All files of a modality in one split; a progress bar is shown on stderr.

    Returns:
        uint8, or uint16 when any file has more than 8 bits, (N, *shape); and what was done, a line each.

    Raises:
        UserError: files that cannot be read (the first is named, the others counted), or of 16-bit files some
            that would be scaled otherwise than others.
    """
    if len(files) * int(np.prod(form.shape)) > MOST_BYTES:
        raise UserError(
            f"{name}: {len(files)} files of {_times(form.shape[1:])} are too many; write a smaller size"
        )
    pixels: NDArray[Any] = np.empty((len(files), *form.shape), np.uint8)
    notes: list[Note] = []
    broken: list[tuple[Path, UnusableImageError]] = []
    with progress_bar() as bar:
        for row, path in enumerate(bar.track(files, description=f"reading {name}")):
            try:
                found, rules = read_pixels(path, form, wanted, axes)
            except UnusableImageError as error:
                broken.append((path, error))
                continue
            if found.dtype == np.uint16 and pixels.dtype == np.uint8:
                pixels = pixels.astype(np.uint16) * 257
            pixels[row] = found if found.dtype == pixels.dtype else found.astype(np.uint16) * 257
            notes += [Note(printable(path.name), rule) for rule in rules]
    _refuse(broken, len(files), name)
    scales = {note.what for note in notes} & set(INTEGERS.values())
    if len(scales) > 1:
        raise UserError(
            f"{name}: files of 16 bits that differ in full scale ({'; '.join(sorted(scales))}); write their "
            f"common one, range: [0, 65535], in {FILE}"
        )
    return pixels, summary(f"files of {name}", notes)


def _refuse(broken: Sequence[tuple[Path, UnusableImageError]], count: int, name: str) -> None:
    if not broken:
        return
    path, fault = broken[0]
    counts = Counter(each.fault for _, each in broken).most_common()
    reasons = ": " + ", ".join(f"{many} {why}" for why, many in counts) if len(counts) > 1 else ""
    raise UserError(
        f"{printable(str(path))} {fault} ({len(broken)} of {count} files of {name} cannot be used{reasons}); "
        "mend them, or take them away"
    )


def _sizes(shapes: Counter[tuple[int, ...]]) -> str:
    """ "3 sizes: 64 x 64 (120 files), …"."""
    sizes: Counter[tuple[int, ...]] = Counter()
    for shape, count in shapes.items():
        sizes[shape[1:]] += count
    shown = ", ".join(f"{_times(size)} ({count} files)" for size, count in sizes.most_common(MOST_SIZES))
    return f"{len(sizes)} sizes: {shown}{', …' if len(sizes) > MOST_SIZES else ''}"


def _times(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))


def _sides(name: str, size: int | tuple[int, ...] | None, found: tuple[int, ...]) -> tuple[int, ...]:
    if size is None:
        return found
    sides = (size,) * len(found) if isinstance(size, int) else tuple(size)
    if len(sides) != len(found):
        raise UserError(f"{name}: size is {list(sides)}; its files have {len(found)} sides ({_times(found)})")
    return sides


def _resized_array(pixels: NDArray[Any], sides: tuple[int, ...]) -> NDArray[Any]:
    """Pixels (C, …) at another size, linear between neighbours after a blur where they are made fewer."""
    if pixels.shape[1:] == sides:
        return pixels
    from scipy import ndimage  # takes as long to import as all the rest, and few data need it

    ratios = [new / old for new, old in zip(sides, pixels.shape[1:], strict=True)]
    blur = [0.0, *(max(0.0, (1 / ratio - 1) / 2) for ratio in ratios)]
    smooth = ndimage.gaussian_filter(pixels.astype(np.float32), blur, mode="nearest")
    grid = np.meshgrid(
        *[(np.arange(new) + 0.5) / ratio - 0.5 for new, ratio in zip(sides, ratios, strict=True)],
        indexing="ij",
    )
    found = [ndimage.map_coordinates(channel, grid, order=1, mode="nearest") for channel in smooth]
    whole: NDArray[Any] = np.rint(np.stack(found)).astype(pixels.dtype)
    return whole
