"""Somebody's arrays as a split: what has but one meaning is taken and said, everything else is refused.

NumPy arrays, torch tensors (no torch is imported here), lists, and whatever else turns into an array.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import SPLITS, DatasetInfo, Modality, Split
from robustbench_med.api.heads import Head
from robustbench_med.data.labels import Classes, head_of_labels, one_for_each
from robustbench_med.data.values import Reading, Values, read_values, table_modality
from robustbench_med.util.errors import UserError, unknown

NOT_STATED: Final = "not stated"


@dataclass(frozen=True)
class Taken:
    """Arrays that were taken.

    Attributes:
        split: checked.
        said: what was guessed or converted, a line each, for people.
    """

    split: Split
    said: tuple[str, ...]


def split_of_arrays(
    name: str,
    inputs: Mapping[str, Any],
    labels: Mapping[str, Any],
    *,
    split: str = "test",
    ids: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    subgroups: Mapping[str, Sequence[Any]] | None = None,
    heads: Head | Sequence[Head] | None = None,
    classes: Classes | Mapping[str, Classes] | None = None,
    kinds: str | Mapping[str, str] | None = None,
    ranges: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None,
    mean: Any = None,
    std: Any = None,
    train: Mapping[str, Any] | None = None,
) -> Taken:
    """A split of somebody's arrays.

    Args:
        name: of the data set, for people.
        inputs: by modality N values each: volume (N, C, D, H, W), image (N, C, H, W), table (N, F), and
            where ``kinds`` says so signal (N, C, T). uint8 and uint16 span their full scale, floats 0 to 1.
        labels: by head (N,), (N, 1), (N, L) of 0 and 1, or one-hot; -1 is unknown. See ``data.labels``.
        ids: default: a hash of the sample's values, and its number among equal ones.
        groups: patients or lesions; samples of one are not independent. Default: the ids.
        subgroups: by column N values.
        heads: what is asked, in place of any guess.
        classes: names of the classes or findings, or how many there are; by head where there are several.
        kinds, ranges, mean, std: one for all modalities, or by modality; see ``Reading``.
        train: inputs of the training split: range and scale of a table are theirs.

    Raises:
        UserError: anything that has more than one meaning, or none; the line says what to write.
    """
    if split not in SPLITS:
        raise unknown("split", str(split), SPLITS)
    if subgroups is not None and not isinstance(subgroups, Mapping):
        raise UserError(
            "subgroups must be a mapping from a column's name to its values, such as {'sex': [...]}"
        )
    inputs = _arrays(inputs, "inputs", "modality")
    labels = _arrays(labels, "labels", "head")
    count = _equal_lengths({**{f"input {k}": v for k, v in inputs.items()}, **_named("labels", labels)})
    said: list[str] = []
    options = {"kind": kinds, "range": ranges, "mean": mean, "std": std}
    arrays, modalities = _values(inputs, options, train, said)
    asked, answers = _heads(labels, heads, classes, tuple(inputs), said)
    names = sample_ids(arrays, count) if ids is None else _texts(ids, "ids")
    info = DatasetInfo(name, name, "paired", modalities, asked, NOT_STATED, NOT_STATED)
    taken = Split(
        name=split,
        info=info,
        arrays=arrays,
        rows={modality: np.arange(count) for modality in arrays},
        labels=answers,
        ids=names,
        groups=names if groups is None else _texts(groups, "groups"),
        subgroups={k: _texts(v, f"subgroup {k}") for k, v in (subgroups or {}).items()},
    )
    return Taken(taken.validate(), tuple(said))


def _values(
    inputs: Mapping[str, Values], options: Mapping[str, Any], train: Mapping[str, Any] | None, said: list[str]
) -> tuple[dict[str, Values], tuple[Modality, ...]]:
    """Every modality's values and what they are; options by the fields of ``Reading``."""
    trained = _arrays(train, "train", "modality") if train is not None else {}
    arrays, modalities = {}, []
    for name, array in inputs.items():
        chosen = {what: one_for_each(given, name, inputs, what) for what, given in options.items()}
        arrays[name], described = read_values(name, array, Reading(**chosen), said)
        if described.kind == "table":
            described = table_modality(name, arrays[name], trained.get(name), said)
        modalities.append(described)
    return arrays, tuple(modalities)


def as_array(value: Any, what: str) -> Values:
    """Anything that holds an array, as one.

    Args:
        what: it is, for the error.

    Raises:
        UserError: rows of unequal length, objects, or a type that NumPy does not know.
    """
    if hasattr(value, "detach"):  # a torch tensor, which may need gradients or lie on another device
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:  # ragged lists; bfloat16
        raise UserError(f"{what} is not an array ({error}); stack it to one array of numbers") from error
    if array.dtype.kind == "O" and all(isinstance(each, str | float | None) for each in array.ravel()):
        array = np.array([_text(each) for each in array.ravel()]).reshape(array.shape)
    if array.dtype.kind not in "fiubU":
        raise UserError(f"{what} holds {array.dtype}, not numbers; convert it to float32 or uint8")
    if array.ndim == 0 or not array.size:
        raise UserError(f"{what} is empty or a single number; give an array with one entry for each sample")
    return array


def sample_ids(arrays: Mapping[str, Values], count: int) -> tuple[str, ...]:
    """An id from the values of each sample, so that order and neighbours do not matter."""
    seen: Counter[str] = Counter()
    ids = []
    for row in range(count):
        digest = hashlib.sha256()
        for name, array in arrays.items():
            digest.update(name.encode() + b"\0" + np.ascontiguousarray(array[row]).tobytes())
        short = digest.hexdigest()[:12]
        seen[short] += 1
        ids.append(short if seen[short] == 1 else f"{short}-{seen[short]}")
    return tuple(ids)


def _arrays(given: Any, what: str, of: str) -> dict[str, Values]:
    if not isinstance(given, Mapping) or not given:
        raise UserError(f"{what} must be a mapping from a {of}'s name to its array, such as {{'name': x}}")
    return {str(name): as_array(value, f"{what}[{name!r}]") for name, value in given.items()}


def _named(what: str, arrays: Mapping[str, Values]) -> dict[str, Values]:
    return {f"{what} {name}": array for name, array in arrays.items()}


def _equal_lengths(arrays: Mapping[str, Values]) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise UserError(f"every array must have one entry for each sample; there are {shown}")
    return next(iter(lengths.values()))


def _heads(
    labels: Mapping[str, Values],
    heads: Head | Sequence[Head] | None,
    classes: Any,
    modalities: tuple[str, ...],
    said: list[str],
) -> tuple[tuple[Head, ...], dict[str, NDArray[np.int64]]]:
    listed = [heads] if isinstance(heads, Head) else list(heads or ())
    if not all(isinstance(head, Head) for head in listed):
        raise UserError(
            "heads= must be heads, such as [MultiLabel('findings', findings=(…), modalities=(…))]"
        )
    given = {head.name: head for head in listed}
    odd = sorted(set(given) ^ set(labels)) if given else []
    if odd:
        raise UserError(
            f"heads= and labels do not name the same heads: {odd[0]!r} is in one of them only; give both"
        )
    asked, answers = [], {}
    for name, values in labels.items():
        chosen = one_for_each(classes, name, labels, "classes")
        head, answers[name] = head_of_labels(name, values, modalities, said, chosen, given.get(name))
        asked.append(head)
    return tuple(asked), answers


def _text(value: Any) -> str:
    """A value as text, "" when there is none (None, NaN)."""
    return "" if value is None or value != value else str(value)


def _texts(values: Sequence[Any], what: str) -> tuple[str, ...]:
    if isinstance(values, str):
        raise UserError(f"{what} is one text, {values!r}; give one for each sample")
    if isinstance(values, Mapping) or not hasattr(values, "__iter__"):
        raise UserError(f"{what} must be a list with one entry for each sample, not {type(values).__name__}")
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return tuple(_text(value) for value in listed)
