"""The values of a modality as somebody has them: axes in our order, and a range that is known.

What has but one meaning is taken and said, everything else is refused in one line that says what to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import FULL_SCALE, KINDS, Modality
from robustbench_med.util.errors import UserError, unknown

Values = NDArray[Any]

CHANNELS: Final = (1, 3, 4)
"""Grey, colour, colour with transparency: what an axis of channels usually has."""
NORMALISED: Final = 1e-4
"""How far a value that is taken back from mean and std may leave [0, 1]: rounding of float32 and below."""


@dataclass(frozen=True)
class Reading:
    """How the values of one modality are to be read; None: guessed.

    Attributes:
        kind: of ``KINDS``.
        range: lowest and highest value there can be.
        mean, std: what the values were normalised with, a number or one for each channel.
    """

    kind: str | None = None
    range: tuple[float, float] | None = None
    mean: Any = None
    std: Any = None


def read_values(name: str, array: Values, reading: Reading, said: list[str]) -> tuple[Values, Modality]:
    """The values of a modality in channels-first order and a known range.

    Args:
        said: gets a line for everything that was guessed or converted.

    Returns:
        uint8, uint16 or float32 (N, *shape), and the modality; of a table its range is not yet right.

    Raises:
        UserError: see ``split_of_arrays``.
    """
    if array.dtype.kind == "U":
        raise UserError(f"{name} holds text, not numbers; texts are no input of a model here")
    array, kind = _in_order(name, array, reading.kind, said)
    if kind == "table":
        return array.astype(np.float32), Modality(name, array.shape[1:], name, "table")
    values, low, high = _in_range(name, array, reading, said)
    return values, Modality(name, values.shape[1:], name, kind, low, high)  # type: ignore[arg-type]


def table_modality(
    name: str,
    values: Values,
    train: Values | None,
    said: list[str],
    features: tuple[str, ...] = (),
    fixed: Sequence[bool] | None = None,
) -> Modality:
    """A table whose range and scale are those of the training split, or of the values where there is none.

    A feature that has one value only gives no scale: nobody may change it.

    Args:
        fixed: features that cannot be forged.

    Raises:
        UserError: NaN, or a training split of another width.
    """
    if train is None:
        said.append(f"{name}: no training split at hand, so range and scale are those of the data itself")
    elif train.shape[1:] != values.shape[1:]:
        raise UserError(f"{name}: {values.shape[1]} features, but {train.shape[1]} in the training split")
    known = (values if train is None else train).astype(np.float32)
    for part in (values, known):
        odd = np.argwhere(~np.isfinite(part))
        if len(odd):
            raise UserError(
                f"{name}: NaN or infinite in row {odd[0][0]}, feature {odd[0][1]}; fill it in before "
                "(the mean of the training split, and a column that says so)"
            )
    low, high, scale = known.min(0), known.max(0), known.std(0, dtype=np.float64).astype(np.float32)
    constant = (low == high) | (scale == 0)
    mutable = ~constant if fixed is None else ~constant & ~np.asarray(fixed, bool)
    if constant.any():
        shown = ", ".join(features[i] if features else str(i) for i in np.flatnonzero(constant)[:5])
        said.append(f"{name}: features with one value only are not attacked: {shown}")
    if not mutable.any():
        said.append(f"{name}: none of its features can be attacked")
    return Modality(
        name,
        values.shape[1:],
        name,
        "table",
        low=np.where(constant, low - np.float32(0.5), low).astype(np.float32),
        high=np.where(constant, high + np.float32(0.5), high).astype(np.float32),
        scale=np.where(constant, np.float32(1), scale).astype(np.float32),
        mutable=None if mutable.all() else mutable,
        features=features,
    )


def _in_order(name: str, array: Values, kind: str | None, said: list[str]) -> tuple[Values, str]:
    """Values with the axes of their kind, and the kind."""
    if kind is not None and kind not in KINDS:
        raise unknown("kind", str(kind), KINDS)
    if kind is not None:
        missing = 1 + len(KINDS[kind]) - array.ndim  # type: ignore[index]
        if missing == 1 and kind != "table":
            said.append(f"{name}: taken as {kind} of one channel")
            return array[:, None], kind
        if missing:
            raise UserError(
                f"{name} has shape {array.shape}; a {kind} is (samples, {', '.join(KINDS[kind])})"  # type: ignore[index]
            )
        return array, kind
    stored = array.dtype.name in FULL_SCALE
    if array.ndim == 2:
        return array, "table"
    if array.ndim == 3 and stored:
        said.append(f"{name}: {array.dtype} of shape {array.shape} taken as grey images; a channel was added")
        return array[:, None], "image"
    if array.ndim == 4 and stored and len(set(array.shape[1:])) == 1 and array.shape[1] not in CHANNELS:
        said.append(
            f"{name}: {array.dtype} of shape {array.shape} taken as grey volumes; a channel was added"
        )
        return array[:, None], "volume"
    if array.ndim == 3:
        raise UserError(
            f"{name} has shape {array.shape}: signals (samples, channels, time), or grey images without "
            f'their channel? Say kinds={{"{name}": "signal"}} or kinds={{"{name}": "image"}}'
        )
    if array.ndim not in (4, 5):
        raise UserError(
            f"{name} has shape {array.shape}; a table has 2 axes with the one of samples, a signal 3, an "
            "image 4, a volume 5"
        )
    return _channels_first(name, array, stored, said), "image" if array.ndim == 4 else "volume"


def _channels_first(name: str, array: Values, stored: bool, said: list[str]) -> Values:
    """Images or volumes whose channels lie where they belong."""
    first, last, inner = array.shape[1], array.shape[-1], array.shape[2:]
    kind = "image" if array.ndim == 4 else "volume"
    order = (0, array.ndim - 1, *range(1, array.ndim - 1))
    ends_so = last in CHANNELS and array.shape[1:-1] != (last,) * len(array.shape[1:-1])
    starts_so = first in CHANNELS and not (ends_so and first == array.shape[2])
    if starts_so or (not ends_so and (first < min(inner) or first == 2)):
        return array
    if ends_so and stored and first not in CHANNELS:
        said.append(f"{name}: channels lie last in {array.shape}; they were put first")
        return array.transpose(order)
    if ends_so:
        raise UserError(
            f"{name} has shape {array.shape}, with the channels last; they belong after the samples: "
            f'x.transpose{order}, or kinds={{"{name}": "{kind}"}} if they do lie there'
        )
    asked = "a volume without its channel" if kind == "image" else "channels last"
    raise UserError(
        f"{name} has shape {array.shape}: where are its channels, or is it {asked}? Say "
        f'kinds={{"{name}": "volume"}} or kinds={{"{name}": "image"}}, with the channels after the samples'
    )


def _in_range(name: str, array: Values, reading: Reading, said: list[str]) -> tuple[Values, float, float]:
    """Values in a range that is known, and the range."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{name} has NaN or infinite values; repair the data")
    low, high = array.min(), array.max()
    span = f"{low:g} to {high:g}" if array.dtype.kind != "b" else "false to true"
    if reading.range is not None:
        return array.astype(np.float32), *_bounds(name, reading.range)
    if array.dtype.kind == "b":
        return array.astype(np.float32), 0.0, 1.0
    write = f'write ranges={{"{name}": (LOW, HIGH)}} with the lowest and highest value there can be'
    if array.dtype.kind != "f":
        full = FULL_SCALE.get(array.dtype.name)
        if full is None:
            raise UserError(f"{name} holds {array.dtype} from {span}, whose full scale is not known; {write}")
        if 0 < high <= (1 if full == 255 else 4095):
            raise UserError(f"{name} is {array.dtype}, but holds only {span}, not 0 to {full}; {write}")
        return array, 0.0, 1.0
    if low >= 0 and high <= 1:
        if 0 < high <= 1.001 / 255:
            raise UserError(f"{name} spans only {span}: was it divided by 255 twice? Undo it, or {write}")
        return array.astype(np.float32, copy=False), 0.0, 1.0
    if reading.mean is None and reading.std is None:
        raise UserError(
            f'{name} spans {span}, not 0 to 1; write ranges={{"{name}": {_likely(low, high)}}} if these are '
            "its lowest and highest possible values, or mean= and std= if it was normalised with them"
        )
    return _taken_back(name, array, reading, span, said), 0.0, 1.0


def _likely(low: float, high: float) -> str:
    """The range that values of this span most probably have, as it is written."""
    usual = ((-1, 1), (0, 255), (-1024, 3071), (0, 4095), (0, 65535))
    return str(next((pair for pair in usual if pair[0] <= low and high <= pair[1]), "(LOW, HIGH)"))


def _bounds(name: str, given: Any) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError) as error:
        raise UserError(f"ranges of {name} are {given!r}; write (LOW, HIGH), two numbers") from error
    return low, high


def _taken_back(name: str, array: Values, reading: Reading, span: str, said: list[str]) -> Values:
    """Normalised values as they were before, in [0, 1]."""
    shape = (-1,) + (1,) * (array.ndim - 2)
    columns = []
    for what, given, usual in (("mean", reading.mean, 0.0), ("std", reading.std, 1.0)):
        try:
            column = np.asarray(usual if given is None else given, np.float64).reshape(shape)
            np.broadcast_to(column, array.shape[1:])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{what} of {name} is {given!r}; give one number, or {array.shape[1]}, one for each channel"
            ) from error
        columns.append(column)
    before = array * columns[1] + columns[0]
    if before.min() < -NORMALISED or before.max() > 1 + NORMALISED:
        raise UserError(
            f"{name} spans {span}; taken back with mean= and std= it spans {before.min():g} to "
            f"{before.max():g}, not 0 to 1; give those it was normalised with, or "
            f'ranges={{"{name}": (LOW, HIGH)}}'
        )
    said.append(
        f"{name}: taken back from {span} into 0 to 1 with the given mean and std; the model must normalise"
    )
    return np.clip(before, 0, 1).astype(np.float32)
