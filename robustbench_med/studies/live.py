"""Data that somebody holds in Python: arrays, a ``Dataset``, a ``DataLoader``; read once into a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.data.arrays import Taken, as_array, split_of_arrays
from robustbench_med.util.errors import UserError

Data = Any
"""What ``taken`` takes."""

LABELS = ("labels", "label", "targets", "target", "y")
NAME = "your data"


def arrays(inputs: Any, labels: Any, name: str = NAME, **options: Any) -> Taken:
    """Arrays with more than values and labels: what ``evaluate`` takes as data.

    Args:
        inputs: an array, several in order, or a mapping of them by modality; see ``data.arrays``.
        labels: likewise, by head.
        options: ids, groups, subgroups, classes, heads, kinds, ranges, mean, std, train: see
            ``data.arrays.split_of_arrays``.

    Raises:
        UserError: see there.
    """
    return split_of_arrays(name, _by_name(inputs, "input"), _by_name(labels, "label"), **options)


def taken(data: Data) -> tuple[Split, tuple[str, ...]]:
    """Somebody's data as a checked split, and what was guessed of it, a line each.

    Raises:
        UserError: it is nothing of what is taken; a loader that returns other samples when it is read
            again; see ``data.arrays``.
    """
    if isinstance(data, Split):
        return data.validate(), ()
    if isinstance(data, Taken):
        return data.split, data.said
    if isinstance(data, tuple | list) and len(data) == 2:
        found = arrays(*data)
        return found.split, found.said
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping):
        found = arrays(*_stacked([_pair(data[i]) for i in range(len(data))], np.stack))
        return found.split, found.said
    if isinstance(data, Iterable) and not isinstance(data, Mapping | str):
        found = arrays(*_read_twice(data))
        return found.split, found.said
    raise UserError(
        f"{type(data).__name__} is no data: give (inputs, labels), a Dataset, a DataLoader, a name or a path"
    )


def _by_name(given: Any, usual: str) -> dict[str, Any]:
    """Arrays by name: their own, or ``usual`` and a number where there are several."""
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    several = (
        isinstance(given, tuple | list)
        and given
        and all(hasattr(each, "shape") and each.shape for each in given)
    )
    if not several:
        return {usual: given}
    return {f"{usual}{number}": value for number, value in enumerate(given, 1)}


def _pair(item: Any) -> tuple[Any, Any]:
    """Inputs and labels of what a data set returns for one sample, or a loader for one batch.

    Raises:
        UserError: it is not told which is which.
    """
    if isinstance(item, Mapping):
        named = [name for name in LABELS if name in item]
        if named:
            return {k: v for k, v in item.items() if k != named[0]}, item[named[0]]
        raise UserError(
            f"a sample is a mapping of {', '.join(map(str, item))}; call the labels {' or '.join(LABELS)}, "
            "or give (inputs, labels)"
        )
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, tuple | list) and len(item) > 2:
        return tuple(item[:-1]), item[-1]
    raise UserError(f"a sample is {type(item).__name__}; it must be (inputs, labels)")


def _stacked(pairs: Sequence[tuple[Any, Any]], join: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Samples, or batches, as one array for each modality and head.

    Raises:
        UserError: none at all, or some of another shape.
    """
    if not pairs:
        raise UserError("the data set is empty")
    out = []
    for which, usual in ((0, "input"), (1, "label")):
        columns = [_by_name(pair[which], usual) for pair in pairs]
        try:
            out.append(
                {name: join([as_array(_at_least_one(c[name]), name) for c in columns]) for name in columns[0]}
            )
        except (ValueError, KeyError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"samples differ in what they hold ({said}); give all the same shape") from error
    if join is np.stack:  # labels of one sample each are numbers
        out[1] = {name: y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for name, y in out[1].items()}
    return out[0], out[1]


def _at_least_one(value: Any) -> Any:
    """A number as an array of one."""
    return value if getattr(value, "shape", None) or isinstance(value, list | tuple) else np.atleast_1d(value)


def _read_twice(loader: Iterable[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The batches of a loader, one after another.

    Raises:
        UserError: a second reading differs: no number could be made again.
    """
    pairs = [_pair(batch) for batch in loader]
    found = _stacked(pairs, np.concatenate)
    del pairs
    if _digest(_parts(found)) != _digest(_parts(_stacked([_pair(b) for b in loader], np.concatenate))):
        raise UserError(
            "the loader returns other samples when it is read again: it shuffles or augments; make it with "
            "shuffle=False and the transforms of testing"
        )
    return found


def _parts(found: tuple[dict[str, Any], dict[str, Any]]) -> Iterator[NDArray[Any]]:
    for each in found:
        yield from each.values()


def _digest(parts: Iterable[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
