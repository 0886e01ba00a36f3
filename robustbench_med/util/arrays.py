"""NumPy's files, read without trust: never unpickled, and no more memory taken than the file accounts for."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

MOST_BYTES = 8 * 2**30  # of all arrays of a file together: ours have some hundred MB at most
LEAST_BYTES, DENSEST = 100_000_000, 100  # scores, labels and images shrink a few times when they are packed

# What NumPy and zipfile raise on bytes that are not theirs (found by damaging files at random).
_ERRORS = (
    *(ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, MemoryError),
)


def read_npy(path: Path) -> NDArray[Any]:
    """A plain array, mapped into memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no whole array of numbers or text.
    """
    with _plain_errors():
        with path.open("rb") as stream:
            _check_header(stream, path.name, path.stat().st_size)
        return npy.open_memmap(path, mode="r")


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no whole archive, or one of its arrays says that it is larger than what is there.
    """
    with _plain_errors():
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            whole = sum(member.file_size for member in members)
            if whole > min(MOST_BYTES, LEAST_BYTES + DENSEST * path.stat().st_size):
                raise ValueError(f"{whole} bytes out of {path.stat().st_size}")
            for member in members:
                with archive.open(member) as stream:
                    _check_header(stream, member.filename, member.file_size)
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def joined_bytes(blobs: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Blobs one after another, and their sizes."""
    return np.frombuffer(b"".join(blobs), np.uint8), np.array([len(blob) for blob in blobs], np.int64)


def split_bytes(data: NDArray[Any], sizes: NDArray[Any]) -> tuple[bytes, ...]:
    """What ``joined_bytes`` joined (ValueError when they do not fit each other)."""
    if data.dtype != np.uint8 or data.ndim != 1 or sizes.dtype.kind not in "iu" or sizes.ndim != 1:
        raise ValueError("packed data is of another type than it should be")
    if (sizes < 0).any() or int(sizes.sum()) != len(data):
        raise ValueError("packed data is longer or shorter than it says")
    ends = np.cumsum(sizes)
    whole = data.tobytes()
    return tuple(whole[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True))


def _check_header(stream: Any, name: str, size: int) -> None:
    """Make sure that an array is as long as it says (ValueError), before memory is taken for it."""
    reader = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError(f"{name[:80]!r} holds objects, not numbers")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{name[:80]!r} says that it is larger than what is there")


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"it is damaged ({reason or type(error).__name__})") from error
