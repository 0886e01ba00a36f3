"""One look at every sample of a data set, those that cannot be loaded included."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import FULL_SCALE, DataSource, Modality, Split
from robustbench_med.api.heads import Head
from robustbench_med.data.added import splits_of
from robustbench_med.data.decoding import UnusableImageError
from robustbench_med.data.files import Form, read_pixels, shape_in_file
from robustbench_med.data.listing import ListedSource, Table
from robustbench_med.util.errors import UserError
from robustbench_med.util.progress import progress_bar

THUMB: Final = 32
"""Pixels a side of what is kept of an image."""


@dataclass(frozen=True)
class Look:
    """What is kept of one sample of one modality.

    Attributes:
        fault: why it cannot be read, in words that follow a count; None when it can.
        shape: with channels first.
        low, high: as shares of the full scale.
        digest: of shape and pixels.
        hash: 64 bits of a difference hash: whether each of 8 x 8 places is darker than its right neighbour.
        thumb: uint8 (32, 32) or (32, 32, 3); of a volume the slice in the middle.
    """

    fault: str | None
    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float
    digest: bytes
    hash: int
    thumb: NDArray[np.uint8]


@dataclass(frozen=True)
class Looked:
    """All samples of all splits; see ``Listing``.

    Attributes:
        looks: by modality (but tables), a look at each sample.
        resized: by modality, whether a size is given to which files are brought.
        tables: what is odd in tables, a line each.
        absent: splits that could not be loaded, and why.
    """

    splits: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    groups_known: bool
    heads: tuple[Head, ...]
    labels: Mapping[str, NDArray[np.int64]]
    looks: Mapping[str, tuple[Look, ...]]
    resized: Mapping[str, bool]
    tables: tuple[str, ...]
    said: tuple[str, ...]
    absent: tuple[str, ...] = ()


def look_at(source: DataSource) -> Looked:
    """Look at every sample; what lies in files is looked at file by file, so that broken ones are found too.

    Raises:
        UserError: there is no split that can be read.
    """
    return _at_listed(source) if isinstance(source, ListedSource) else _at_splits(source)


def _at_listed(source: ListedSource) -> Looked:
    listing, told = source.listing, source.description
    looks: dict[str, tuple[Look, ...]] = {}
    with progress_bar() as bar:
        for modality, files in listing.files.items():
            tracked = bar.track(files, description=f"looking at {modality}")
            looks[modality] = tuple(_at_file(source, modality, path) for path in tracked)
    return Looked(
        splits=listing.splits,
        ids=listing.ids,
        groups=listing.groups,
        groups_known=listing.groups_known,
        heads=listing.heads,
        labels=listing.labels,
        looks=looks,
        resized={modality: told.input(modality).size is not None for modality in looks},
        tables=tuple(line for name, table in listing.tables.items() for line in _odd_features(name, table)),
        said=listing.said,
    )


def _at_file(source: ListedSource, modality: str, path: Path | None) -> Look:
    if path is None:
        return _nothing("samples have no file")
    if not path.is_file():
        return _nothing("files are not there")
    wanted, axes = source.description.input(modality), source.description.axes
    try:
        form = Form(shape_in_file(path, axes), ())
        pixels, _ = read_pixels(path, form, wanted, axes)
    except UnusableImageError as error:
        return _nothing(f"files cannot be read ({error.fault})")
    return look(pixels, pixels.astype(np.float32) / np.float32(FULL_SCALE[pixels.dtype.name]))


def _at_splits(source: DataSource) -> Looked:
    found: list[Split] = []
    absent: list[str] = []
    for split in splits_of(source):
        try:
            found.append(source.load(split).validate())
        except UserError as error:
            if split == "test" or hasattr(source, "splits"):
                raise
            absent.append(f"{split}: {error}")
    first = found[-1]
    kinds = [m for m in first.info.modalities if m.kind != "table"]
    groups = tuple(group for split in found for group in split.groups)
    ids = tuple(sample for split in found for sample in split.ids)
    tables = [m for m in first.info.modalities if m.kind == "table"]
    return Looked(
        splits=tuple(split.name for split in found for _ in split.ids),
        ids=ids,
        groups=groups,
        groups_known=groups != ids,
        heads=first.info.heads,
        labels={h.name: np.concatenate([s.labels[h.name] for s in found]) for h in first.info.heads},
        looks={m.name: tuple(each for split in found for each in _at_arrays(split, m)) for m in kinds},
        resized={m.name: True for m in kinds},
        tables=tuple(line for m in tables for line in _odd_features(m.name, Table(_rows(found, m), m))),
        said=first.info.caveats,
        absent=tuple(absent),
    )


def _rows(found: Sequence[Split], modality: Modality) -> NDArray[np.float32]:
    return np.concatenate([s.values(modality.name, slice(None)) for s in found])


def _at_arrays(split: Split, modality: Modality) -> list[Look]:
    rows, array = split.rows[modality.name], split.arrays[modality.name]
    low, high = np.float32(modality.low), np.float32(modality.high)
    seen: dict[int, Look] = {}
    for number, row in enumerate(rows.tolist()):
        if row not in seen:
            values = split.values(modality.name, [number])[0]
            shares = ((values - low) / (high - low)).astype(np.float32)
            seen[row] = look(array[row], shares)
    return [seen[row] for row in rows.tolist()]


def look(stored: NDArray[Any], shares: NDArray[np.float32]) -> Look:
    """Look at one image, volume or signal.

    Args:
        stored: as it is, for the digest.
        shares: the same from 0 to 1, channels first.
    """
    said = f"{stored.dtype} {stored.shape} ".encode()
    digest = hashlib.sha256(said + np.ascontiguousarray(stored).tobytes()).digest()
    flat = shares[:, shares.shape[1] // 2] if shares.ndim == 4 else shares
    flat = flat[:, None] if flat.ndim == 2 else flat
    grey = flat[:3].mean(0) if len(flat) >= 3 else flat.mean(0)
    steps = _shrunk(grey, 8, 9)
    bits = (steps[:, :-1] < steps[:, 1:]).ravel()
    colour = len(flat) in (3, 4)
    thumb = (
        np.stack([_shrunk(c, THUMB, THUMB) for c in flat[:3]], -1) if colour else _shrunk(grey, THUMB, THUMB)
    )
    return Look(
        fault=None,
        shape=tuple(stored.shape),
        dtype=str(stored.dtype),
        low=float(shares.min()),
        high=float(shares.max()),
        digest=digest,
        hash=int(np.packbits(bits).view(">u8")[0]),
        thumb=np.rint(255 * thumb.clip(0, 1)).astype(np.uint8),
    )


def _nothing(fault: str) -> Look:
    return Look(fault, (), "", 0.0, 0.0, b"", 0, np.zeros((THUMB, THUMB), np.uint8))


def _shrunk(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """An image (H, W) at another size: the mean over each part, or the nearest pixel where it is smaller."""
    rows = _parts(image.shape[0], height)
    columns = _parts(image.shape[1], width)
    summed = np.add.reduceat(np.add.reduceat(image, rows[0], 0), columns[0], 1)
    return np.asarray(summed / (rows[1][:, None] * columns[1]), np.float32)


def _parts(have: int, want: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each of ``want`` parts of ``have`` pixels begins, and how many pixels ``reduceat`` sums there."""
    begins = np.arange(want) * have // want
    ends = np.append(begins[1:], have)
    return begins, np.maximum(ends - begins, 1)


def _odd_features(name: str, table: Table) -> list[str]:
    """Features of a table that hold one value only."""
    flat = np.flatnonzero(table.values.min(0) == table.values.max(0))
    features = table.modality.features or tuple(map(str, range(table.values.shape[1])))
    return [f"{name}: {features[at]} has one value only" for at in flat.tolist()]
