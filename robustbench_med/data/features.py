"""Columns of a CSV as a table modality: numbers, categories, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from robustbench_med.data.described import FILE, Input
from robustbench_med.data.listing import Table
from robustbench_med.data.notes import few
from robustbench_med.data.tables import stated
from robustbench_med.data.values import table_modality
from robustbench_med.util.errors import UserError, unknown

MOST_CATEGORIES = 50
MISSING = "missing"
FILLED = "filled in, with a feature that says so"


def features_of(
    name: str, cells: Mapping[str, Sequence[str]], wanted: Input, train: NDArray[np.bool_], said: list[str]
) -> Table:
    """A table of all samples, with range, scale, means and flags of the training split.

    A number stays one. A category becomes a 0 or 1 for each of its values, which nobody may change unless
    ``mutable`` names it. A missing number becomes the mean of the training split, a missing category zeros;
    either adds a feature that says so and that nobody may change.

    Args:
        cells: by column the text of each sample.
        train: which samples are of the training split; without any, all of them stand for it.
        said: gets a line for everything that was guessed.

    Raises:
        UserError: a column that is not there, or holds texts and is not said to be a category.
    """
    for column in (*wanted.columns, *wanted.categories, *wanted.fixed, *wanted.mutable):
        if column not in cells:
            raise UserError(f"{name}: {unknown('column', column, cells)}")
    chosen = tuple(dict.fromkeys((*wanted.columns, *wanted.categories)))
    if not chosen:
        raise UserError(f"{name}: a table needs columns: [age, crp, …] in {FILE}")
    known = train if train.any() else np.ones_like(train)
    columns: list[NDArray[np.float64]] = []
    features: list[str] = []
    fixed: list[bool] = []
    for column in chosen:
        texts = [stated(value) for value in cells[column]]
        absent = np.array([not text for text in texts])
        if column in wanted.categories:
            names, values = _category(name, column, texts)
            locked = column not in wanted.mutable
        else:
            names, values = (column,), _number(name, column, texts, absent, known)
            locked = column in wanted.fixed
        columns, features = [*columns, *values], [*features, *names]
        fixed += [locked] * len(names)
        if absent.any():
            columns, features, fixed = (
                [*columns, absent.astype(float)],
                [*features, f"{column} {MISSING}"],
                [*fixed, True],
            )
            said.append(
                f"{name}: {column} is missing in {int(absent.sum())} of {len(texts)} samples; {FILLED}"
            )
    whole = np.stack(columns, 1).astype(np.float32)
    reference = whole[known] if train.any() else None
    modality = table_modality(name, whole, reference, said, tuple(features), fixed)
    return Table(whole, modality)


def _number(
    name: str, column: str, texts: Sequence[str], absent: NDArray[np.bool_], known: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    try:
        values = np.array([float(text) if text else np.nan for text in texts])
    except ValueError as error:
        odd = next(text for text in texts if text and not _is_number(text))
        raise UserError(
            f"{name}: the column {column!r} holds {odd!r}, which is no number; add it to categories: in "
            f"{FILE}, or leave it out"
        ) from error
    there = known & ~absent
    if not there.any():
        raise UserError(f"{name}: the column {column!r} is empty in the training split; leave it out")
    if np.isinf(values).any():
        raise UserError(f"{name}: the column {column!r} holds an infinite number; mend it")
    return [np.where(absent, values[there].mean(), values)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _category(
    name: str, column: str, texts: Sequence[str]
) -> tuple[tuple[str, ...], list[NDArray[np.float64]]]:
    levels = sorted({text for text in texts if text})
    if not levels or len(levels) > MOST_CATEGORIES:
        raise UserError(
            f"{name}: the category {column!r} has {len(levels)} values ({few(levels)}); it may have 1 to "
            f"{MOST_CATEGORIES}: leave it out, or group them"
        )
    return tuple(f"{column}={level}" for level in levels), [
        np.array([float(text == level) for text in texts]) for level in levels
    ]
