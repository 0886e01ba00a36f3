"""NIfTI and DICOM files as pixels, with the packages of the extra ``medical``.

| in the file | becomes |
|---|---|
| slope and intercept | applied first: Hounsfield units of a CT |
| a window, or a range, that ``dataset.yaml`` gives | black to white; beyond a window is cut off |
| DICOM without either | the file's own first window; else its stored bits, up to 12 |
| NIfTI without either | 8-bit integers as they are, floats that lie in 0 to 1; else refused |
| MONOCHROME1 | inverted: white is high, as everywhere |
| several frames | a volume (1, frames, height, width) |
| colour DICOM | RGB |
| NIfTI orientation | the nearest canonical one (x to the right, y to the front, z up), axes (1, x, y, z) |
| a fourth NIfTI axis | channels |
| a NIfTI of one slice | an image |

Values are kept as 16 bits, 0 to 65535, but for 8-bit colour and 8-bit grey.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from robustbench_med.data.decoding import SIXTEEN_BITS, Scale, UnusableImageError
from robustbench_med.data.folders import printable
from robustbench_med.util.errors import UserError

DICOM_SUFFIXES: Final = (".dcm", ".dicom", ".ima")
NIFTI_SUFFIXES: Final = (".nii", ".nii.gz")
MAGIC_AT, MAGIC = 128, b"DICM"
MOST_BITS: Final = 12
"""Of a DICOM without a window: more stored bits than these are rarely all used, so that they say no scale."""
MOST_CHANNELS: Final = 16
NO_SCALE: Final = (
    "has values whose full scale is not known (write window: {center: C, width: W} or range: [LOW, HIGH] in "
    "dataset.yaml)"
)

Axes = Literal["xyz", "zyx"]

# What the two packages raise on bytes that are no such file, or half of one.
_READING_ERRORS = (
    *(OSError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, RuntimeError),
    *(NotImplementedError, OverflowError, MemoryError, struct.error, zlib.error),
)


@dataclass(frozen=True)
class Scan:
    """What a file holds.

    Attributes:
        pixels: uint8 or uint16, (C, H, W) or (C, D, H, W).
        rules: what was done to get there, in words.
    """

    pixels: NDArray[Any]
    rules: tuple[str, ...]


def is_medical(path: Path) -> bool:
    """Whether a file is taken as NIfTI or DICOM: by its suffix, or without one by its content."""
    name = path.name.lower()
    if name.endswith((*NIFTI_SUFFIXES, *DICOM_SUFFIXES)):
        return True
    return (not path.suffix or path.suffix[1:].isdecimal()) and _has_magic(path)


def is_nifti(path: Path) -> bool:
    """Whether it is a NIfTI file by its name."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def read_scan(path: Path, scale: Scale | None, axes: Axes = "xyz") -> Scan:
    """Read one file by the rules above.

    Raises:
        UnusableImageError: it is none, half of one, or its full scale is not known.
        UserError: the package that reads it is not installed.
    """
    if is_nifti(path):
        with _reading(path, "nibabel") as nibabel:
            return _nifti(nibabel, path, scale, axes)
    with _reading(path, "pydicom.pixels") as pixels:
        return _dicom(pixels, _header(path), scale)


def shape_of(path: Path, axes: Axes = "xyz") -> tuple[int, ...]:
    """The shape of what ``read_scan`` returns, from the file's header alone."""
    if is_nifti(path):
        with _reading(path, "nibabel") as nibabel:
            return _nifti_shape(nibabel.as_closest_canonical(nibabel.load(path)).shape, axes)
    with _reading(path, "pydicom"):
        header = _header(path, pixels=False)
        frames = int(getattr(header, "NumberOfFrames", 1) or 1)
        inner = (int(header.Rows), int(header.Columns))
        colours = int(getattr(header, "SamplesPerPixel", 1))
        return (colours, *((frames,) if frames > 1 else ()), *inner)


def patient_of(path: Path) -> str:
    """A hash of the patient's id in a DICOM file; "" when it has none. The id itself is never kept."""
    if is_nifti(path):
        return ""
    with _reading(path, "pydicom"):
        said = str(getattr(_header(path, pixels=False), "PatientID", "") or "")
    return hashlib.sha256(said.encode()).hexdigest()[:12] if said else ""


def _has_magic(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            stream.seek(MAGIC_AT)
            return stream.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):  # the latter for a null character
        return False


@contextmanager
def _reading(path: Path, package: str) -> Iterator[Any]:
    """The package that reads a file; whatever it says of the file becomes one word."""
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{printable(str(path))} needs the package {package.partition('.')[0]}: "
            "pip install 'robustbench-med[medical]'"
        ) from error
    own_errors: tuple[type[Exception], ...] = (*_READING_ERRORS, *_own_errors(package.partition(".")[0]))
    try:
        with _quiet(package):
            yield module
    except own_errors as error:
        compressed = isinstance(error, RuntimeError | NotImplementedError) and "decode" in str(error).lower()
        fault = (
            "is compressed in a way that needs a further package" if compressed else "is not a readable scan"
        )
        raise UnusableImageError(fault, str(error).split("\n")[0][:200]) from error


@contextmanager
def _quiet(package: str) -> Iterator[None]:
    """What the packages warn of on standard error is either mended by them or raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger = logging.getLogger("nibabel.global" if package == "nibabel" else "pydicom")
        before, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = before


def _own_errors(package: str) -> tuple[type[Exception], ...]:
    """What a package raises on bad files that is no subclass of a usual error."""
    modules = {
        "pydicom": ("errors",),
        "nibabel": ("filebasedimages", "spatialimages", "wrapstruct", "orientations"),
    }
    found = [vars(importlib.import_module(f"{package}.{name}")).values() for name in modules[package]]
    errors = [each for values in found for each in values if isinstance(each, type)]
    return tuple(
        each for each in errors if issubclass(each, Exception) and each.__module__.startswith(package)
    )


def _header(path: Path, pixels: bool = True) -> Any:
    """A DICOM data set, with or without its pixels."""
    return importlib.import_module("pydicom").dcmread(path, stop_before_pixels=not pixels)


def _dicom(pixels: Any, header: Any, scale: Scale | None) -> Scan:
    stored = np.asarray(pixels.pixel_array(header))
    frames = int(getattr(header, "NumberOfFrames", 1) or 1)
    if int(getattr(header, "SamplesPerPixel", 1)) == 3:
        colour = np.moveaxis(stored, -1, 0)
        if colour.dtype != np.uint8:
            raise UnusableImageError("is in colour with more than 8 bits")
        return Scan(np.ascontiguousarray(colour), ())
    rules = []
    values = np.asarray(pixels.apply_modality_lut(stored, header), np.float64)
    if "RescaleSlope" in header:
        rules.append("slope and intercept applied")
    if scale is None:
        scale, rule = _own_scale(header, stored, values)
        rules.append(rule)
    shares = scale.shares(values)
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        rules.append("MONOCHROME1, inverted")
        shares = 1 - shares
    if frames > 1:
        rules.append("several frames, taken as a volume")
    return Scan(_sixteen_bits(shares)[None], tuple(rules))


def _own_scale(header: Any, stored: NDArray[Any], values: NDArray[np.float64]) -> tuple[Scale, str]:
    """What the file itself says is black and white."""
    if header.get("WindowCenter") is not None and header.get("WindowWidth") is not None:
        center, width = (_first(header.get(word)) for word in ("WindowCenter", "WindowWidth"))
        if width > 0:
            return Scale(center - width / 2, center + width / 2, cut=True), (
                f"its own window, center {center:g} and width {width:g}"
            )
    bits = int(header.get("BitsStored", 16))
    plain = not np.issubdtype(stored.dtype, np.signedinteger) and np.array_equal(values, stored)
    if not plain or bits > MOST_BITS:
        raise UnusableImageError(NO_SCALE, f"{values.min():g} to {values.max():g}")
    return Scale(0, 2**bits - 1), f"{bits} stored bits, 0 to {2**bits - 1}"


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _nifti(nibabel: Any, path: Path, scale: Scale | None, axes: Axes) -> Scan:
    image = nibabel.load(path)
    canonical = nibabel.as_closest_canonical(image)
    values = np.asarray(canonical.dataobj)
    rules = [] if np.allclose(image.affine, canonical.affine) else ["turned to the canonical orientation"]
    if values.dtype.kind not in "fiu":
        raise UnusableImageError("holds colours or complex numbers, not values")
    shape = _nifti_shape(values.shape, axes)
    ordered = _in_axes(values, axes).reshape(shape)
    if ordered.dtype == np.uint8 and scale is None:
        return Scan(np.ascontiguousarray(ordered), tuple(rules))
    low, high = float(ordered.min()), float(ordered.max())
    if scale is None:
        if ordered.dtype.kind != "f" or not (low >= 0 and high <= 1):
            raise UnusableImageError(NO_SCALE, f"{low:g} to {high:g}")
        scale = Scale(0, 1)
        rules.append("floating point 0 to 1")
    return Scan(_sixteen_bits(scale.shares(ordered)), tuple(rules))


def _in_axes(values: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """Channels first, then the axes in the order that is wanted."""
    space = (0, 1, 2)[: values.ndim] if axes == "xyz" else (2, 1, 0)[-min(values.ndim, 3) :]
    return values.transpose(*range(3, values.ndim), *space)


def _nifti_shape(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    """(C, x, y, z), or (C, x, y) of a single slice."""
    if len(shape) < 2 or len(shape) > 4 or (len(shape) == 4 and shape[3] > MOST_CHANNELS):
        raise UnusableImageError("is no image or volume", f"its shape is {shape}")
    space = tuple(side for number, side in enumerate(shape[:3]) if number < 2 or side > 1)
    return (shape[3] if len(shape) == 4 else 1, *(space if axes == "xyz" else space[::-1]))


def _sixteen_bits(shares: NDArray[np.float64]) -> NDArray[np.uint16]:
    if not np.isfinite(shares).all():
        raise UnusableImageError("has NaN or infinite values")
    return np.rint(shares * SIXTEEN_BITS).astype(np.uint16)
