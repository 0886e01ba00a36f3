"""What a data set declares, held against what it holds; once, before anything is computed with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.heads import Head
from robustbench_med.util.errors import UserError

if TYPE_CHECKING:
    from robustbench_med.api.data import Modality, Split

ROUNDING = 1e-6  # by so much float32 may leave a range; such values are put back onto its end


def checked_split(split: Split) -> Split:
    """``split`` with everything converted that has but one meaning.

    Labels of any integer type or shape (N, 1), and floats that are whole numbers, become int64; values that
    lie outside their range by a rounding error are put onto its end.

    Raises:
        UserError: an empty split; ids, groups or subgroups that are not N strings, or ids that repeat;
            missing or misshapen arrays, NaN, values outside the range of a modality (a table's may lie
            beyond that of its training split), a row that is not there or is used twice outside "train";
            a label that no class has.
    """
    where = f"{split.info.name}/{split.name}"
    _check_names(split, where)
    _check_people(split, where)
    arrays = {m.name: _checked_array(split, where, m) for m in split.info.modalities}
    labels = {h.name: _checked_labels(split, where, h) for h in split.info.heads}
    return replace(split, arrays=arrays, labels=labels)


def _check_names(split: Split, where: str) -> None:
    for kind, named in (("modality", split.info.modalities), ("head", split.info.heads)):
        names = [each.name for each in named]
        if not names:
            raise UserError(f"{where}: the data set declares no {kind}")
        for name in names:
            if not isinstance(name, str) or not name or "." in name or "\0" in name:
                raise UserError(f"{where}: a {kind} is called {name!r}; names have letters and no dot")
            if names.count(name) > 1:
                raise UserError(f"{where}: two of kind {kind} are called {name!r}; rename one")


def _check_people(split: Split, where: str) -> None:
    """Ids, groups and subgroups: N strings each."""
    if not split.ids:
        raise UserError(f"{where}: the split is empty; import the data again or choose another")
    columns = {"ids": split.ids, "groups": split.groups}
    columns |= {f"subgroup {name}": values for name, values in split.subgroups.items()}
    for name, values in columns.items():
        if len(values) != len(split.ids):
            raise UserError(f"{where}: {len(values)} values of {name} for {len(split.ids)} samples")
        odd = next((value for value in values if not isinstance(value, str)), None)
        if odd is not None:
            raise UserError(f"{where}: {name} must be text, not {odd!r} ({type(odd).__name__})")
    if len(set(split.ids)) != len(split.ids):
        raise UserError(f"{where}: sample ids repeat; every sample needs its own")


def _checked_array(split: Split, where: str, modality: Modality) -> NDArray[Any]:
    name = modality.name
    if name not in split.arrays or name not in split.rows:
        raise UserError(f"{where}: no values of the modality {name!r}")
    array, rows = np.asarray(split.arrays[name]), np.asarray(split.rows[name])
    if array.shape[1:] != modality.shape:
        raise UserError(
            f"{where}: {name} has samples of shape {array.shape[1:]}, the data set declares {modality.shape}"
        )
    if len(rows) != len(split.ids):
        raise UserError(f"{where}: {len(rows)} rows of {name} for {len(split.ids)} samples")
    if rows.min() < 0 or rows.max() >= len(array):
        raise UserError(f"{where}: a sample points to a row of {name} that is not there")
    if split.name != "train" and len(np.unique(rows)) != len(rows):
        raise UserError(f"{where}: a row of {name} is used by two samples of {split.name}")
    return array if array.dtype in (np.uint8, np.uint16) else _checked_floats(array, rows, where, modality)


def _checked_floats(
    array: NDArray[Any], rows: NDArray[np.int64], where: str, modality: Modality
) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where}: {modality.name} holds {array.dtype}, not numbers")
    values = array.astype(np.float32, copy=False)
    used = values[np.unique(rows)]
    if not np.isfinite(used).all():
        raise UserError(f"{where}: {modality.name} has NaN or infinite values; repair the data")
    if modality.kind == "table":
        return values
    low, high = np.asarray(modality.low, np.float32), np.asarray(modality.high, np.float32)
    slack = ROUNDING * (high - low)
    if (used < low - slack).any() or (used > high + slack).any():
        raise UserError(
            f"{where}: {modality.name} values span {used.min():g} to {used.max():g}, outside "
            f"{np.min(low):g} to {np.max(high):g}; scale them, or declare their range"
        )
    inside = not ((used < low).any() or (used > high).any())
    return values if inside else np.clip(values, low, high)


def _checked_labels(split: Split, where: str, head: Head) -> NDArray[np.int64]:
    if head.name not in split.labels:
        raise UserError(f"{where}: no labels for the head {head.name!r}")
    labels = whole_numbers(split.labels[head.name], f"{where}: labels of {head.name}")
    wanted = (len(split.ids), *head.label_shape)
    if labels.shape == (*wanted, 1):
        labels = labels[..., 0]
    if labels.shape != wanted:
        raise UserError(f"{where}: labels of {head.name} have shape {labels.shape}; it must be {wanted}")
    problem = head.label_problem(labels)
    if problem:
        row, reason = problem
        raise UserError(f"{where}: sample {split.ids[row]!r}: {reason}")
    return labels


def whole_numbers(values: Any, what: str) -> NDArray[np.int64]:
    """An array of labels as int64.

    Raises:
        UserError: something else than whole numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        some = array.ravel()[:1].tolist()
        raise UserError(
            f"{what} are {array.dtype} ({some[0]!r} …); number the classes from 0"
            if some
            else f"{what} are empty"
        )
    return array.astype(np.int64, copy=False)
