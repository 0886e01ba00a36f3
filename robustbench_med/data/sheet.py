"""A CSV with a column of files for each modality, columns of labels, and what else is known of a sample."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.heads import Head
from robustbench_med.data.described import FILE, Description, Input, Question
from robustbench_med.data.features import features_of
from robustbench_med.data.files import is_picture
from robustbench_med.data.folders import printable
from robustbench_med.data.labels import head_of_labels, head_of_rows
from robustbench_med.data.listing import Listing, split_word
from robustbench_med.data.notes import few
from robustbench_med.data.tables import stated
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.files import read_text

# Columns by what people call them, in lower case.
SPLIT_NAMES: Final = ("split", "subset", "set", "partition")
GROUP_NAMES: Final = ("patient_id", "patientid", "patient", "subject_id", "subject", "lesion_id", "group")
ID_NAMES: Final = ("id", "sample_id", "image_id", "isic_id")
LABEL_NAMES: Final = ("label", "labels", "class", "target", "diagnosis", "dx", "finding", "y")
PATH_WORDS: Final = ("path", "file", "filename", "filepath", "image_path", "img", "image")
DELIMITERS: Final = (",", ";", "\t")


@dataclass(frozen=True)
class Sheet:
    """A CSV: by column the text of each row."""

    path: Path
    columns: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> tuple[str, ...]:
        """A column by its name.

        Raises:
            UserError: there is none.
        """
        if name not in self.columns:
            raise UserError(f"{self.path.name}: {unknown('column', name, self.columns)}")
        return self.columns[name]


def read_sheet(path: Path) -> Sheet:
    """Read a CSV with a header; commas, semicolons or tabs.

    Raises:
        UserError: it is no such file, or a row does not fit the header.
    """
    text = read_text(path)
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as a CSV: {error}; save it again") from error
    if len(rows) < 2:
        raise UserError(
            f"{path} has no rows below a header; give a line with the columns' names, then a sample each"
        )
    names = [name.strip() for name in rows[0]]
    odd = next((name for name, count in Counter(names).items() if count > 1 or not name), None)
    if odd is not None:
        raise UserError(f"{path}: the header has {odd!r} twice, or a column without a name; rename it")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise UserError(f"{path}: line {number} has {len(row)} cells, the header {len(names)}; mend it")
    cells = {name: tuple(row[at].strip() for row in rows[1:]) for at, name in enumerate(names)}
    return Sheet(path, cells)


def list_sheet(path: Path, told: Description) -> Listing:
    """The samples of a CSV.

    Raises:
        UserError: a column is missing, nothing says what the modalities or labels are, or a value has no
            meaning.
    """
    sheet = read_sheet(path)
    said: list[str] = []
    told = _completed(sheet, told, said)
    splits = _splits(sheet, told)
    folder = (path.parent / told.root).resolve() if told.root != "." else path.parent
    files = {
        name: _files(sheet, given.column or name, folder)
        for name, given in told.modalities.items()
        if not given.is_table
    }
    tables = {
        name: features_of(name, sheet.columns, given, np.array(splits) == "train", said)
        for name, given in told.modalities.items()
        if given.is_table
    }
    labels: dict[str, NDArray[np.int64]] = {}
    heads: list[Head] = []
    for name, asked in told.heads.items():
        head, labels[name] = _labels(sheet, name, asked, tuple(told.modalities), said)
        heads.append(head)
    ids = _ids(sheet, told, files)
    return Listing(
        splits=splits,
        ids=ids,
        groups=_groups(sheet, told, ids),
        files=files,
        tables=tables,
        heads=tuple(heads),
        labels=labels,
        subgroups={name: tuple(map(stated, sheet.column(name))) for name in told.subgroups},
        said=tuple(said),
        groups_known=told.group is not None,
    )


def _completed(sheet: Sheet, told: Description, said: list[str]) -> Description:
    """The description with what only one column can mean filled in; every such guess is said."""
    free = [name for name in sheet.columns if name not in told.columns()]
    told = replace(
        told,
        split=told.split or _named(sheet, free, "split", SPLIT_NAMES, said),
        group=told.group or _named(sheet, free, "group", GROUP_NAMES, said),
        id=told.id or _named(sheet, free, "id", ID_NAMES, said),
    )
    free = [name for name in free if name not in told.columns()]
    if not told.modalities:
        told = replace(told, modalities=_paths(sheet, free, said))
        free = [name for name in free if name not in told.columns()]
    if not told.heads:
        told = replace(told, heads=_label(sheet, free, said))
        free = [name for name in free if name not in told.columns()]
    if free:
        said.append(
            f"{sheet.path.name}: columns not used: {few(free)} ({FILE} can make a table or subgroups of them)"
        )
    return told


def _named(sheet: Sheet, free: Sequence[str], what: str, names: Sequence[str], said: list[str]) -> str | None:
    """The column that by its name and values says the split, group or id of a sample, if there is one."""
    for column in sorted((c for c in free if c.lower() in names), key=lambda c: names.index(c.lower())):
        values = sheet.columns[column]
        distinct = len(set(values)) == len(values)
        if all(map(split_word, values)) if what == "split" else all(values) and (distinct or what != "id"):
            said.append(f"{sheet.path.name}: the column {column!r} says the {what} of a sample")
            return column
    return None


def _paths(sheet: Sheet, free: Sequence[str], said: list[str]) -> dict[str, Input]:
    """The columns that hold files, by the modality they are of.

    Raises:
        UserError: there are none.
    """
    found: dict[str, Input] = {}
    for column in free:
        values = [value for value in sheet.columns[column] if value]
        if values and all(is_picture(sheet.path.parent / value) for value in values):
            name = _modality_name(column)
            if name in found:
                raise UserError(
                    f"{sheet.path}: the columns {found[name].column!r} and {column!r} both hold files; name "
                    f"them in {FILE} (modalities: {{mr: {column}}})"
                )
            found[name] = Input(column=column)
            said.append(f"{sheet.path.name}: the column {column!r} holds the files of the modality {name!r}")
    if not found:
        raise UserError(
            f"{sheet.path}: no column holds image files (there are {few(free) or 'none'}); say which in a "
            f"{FILE} beside it (modalities: {{image: COLUMN}}, or record: {{kind: table, columns: [...]}})"
        )
    return found


def _modality_name(column: str) -> str:
    """ "mr_path" is of "mr", "filename" of "image"."""
    name = column.lower().replace(".", "_")
    for word in PATH_WORDS:
        name = name.removesuffix(f"_{word}").removeprefix(f"{word}_")
    return "image" if name in PATH_WORDS else name


def _label(sheet: Sheet, free: Sequence[str], said: list[str]) -> dict[str, Question]:
    named = [column for column in free if column.lower() in LABEL_NAMES]
    if len(named) != 1:
        shown = few(named or free) or "none"
        what = f"{len(named)} columns may be the label" if named else "no column is called label"
        raise UserError(
            f"{sheet.path}: {what} ({shown}); say which in a {FILE} beside it (heads: {{label: COLUMN}}, or "
            "a list of columns for several findings)"
        )
    said.append(f"{sheet.path.name}: the column {named[0]!r} is the label")
    return {named[0].lower(): Question(column=named[0])}


def _splits(sheet: Sheet, told: Description) -> tuple[str, ...]:
    if told.split is None:
        return ("test",) * len(sheet)
    words = sheet.column(told.split)
    odd = next((word for word in words if not split_word(word)), None)
    if odd is not None:
        raise UserError(
            f"{sheet.path}: {odd!r} in the column {told.split!r} is no split; write train, val or test"
        )
    return tuple(split_word(word) or "" for word in words)


def _files(sheet: Sheet, column: str, folder: Path) -> tuple[Path | None, ...]:
    """The file of each row; relative to the CSV's folder, in the manner of any system."""
    return tuple(
        folder / (PureWindowsPath(value).as_posix() if "\\" in value else value) if value else None
        for value in sheet.column(column)
    )


def _labels(
    sheet: Sheet, name: str, asked: Question, modalities: tuple[str, ...], said: list[str]
) -> tuple[Head, NDArray[np.int64]]:
    classes = tuple(map(str, asked.classes)) or None
    if not asked.columns:
        texts = sheet.column(asked.column or name)
        named = classes is not None and all(text in classes for text in texts if stated(text))
        values = np.array(texts) if named else numbers_or_texts(texts)  # classes may be called 1, 2, 3
        return head_of_labels(name, values, modalities, said, classes)
    columns = [numbers_or_texts(sheet.column(column)) for column in asked.columns]
    odd = next(
        (c for c, values in zip(asked.columns, columns, strict=True) if values.dtype.kind == "U"), None
    )
    if odd is not None:
        raise UserError(f"{sheet.path}: the finding {odd!r} must be 0, 1, -1 or empty in every row")
    names = classes or tuple(column.replace(".", "_") for column in asked.columns)
    return head_of_rows(name, np.stack(columns, 1), names, asked.kind, modalities, said)


def numbers_or_texts(values: Sequence[str]) -> NDArray[np.float64] | NDArray[np.str_]:
    """A column as numbers, NaN where it is empty; as texts when any cell is no number."""
    try:
        return np.array([float(value) if (value := stated(cell)) else np.nan for cell in values])
    except ValueError:
        return np.array(values)


def _ids(sheet: Sheet, told: Description, files: Mapping[str, Sequence[Path | None]]) -> tuple[str, ...]:
    """The column of ids, else the first modality's file names where they differ, else the rows' numbers."""
    if told.id is not None:
        ids = sheet.column(told.id)
        odd = next((name for name, count in Counter(ids).items() if count > 1 or not name), None)
        if odd is not None:
            raise UserError(
                f"{sheet.path}: the id {odd!r} is empty or given twice; mend the column {told.id!r}"
            )
        return ids
    for name, paths in files.items():
        column = [printable(value) for value in sheet.column(told.modalities[name].column or name)]
        if all(paths) and len(set(column)) == len(column):
            return tuple(column)
    return tuple(f"row {number}" for number in range(1, len(sheet) + 1))


def _groups(sheet: Sheet, told: Description, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The patient of each row; a row that names none is a patient of its own."""
    if told.group is None:
        return ids
    return tuple(stated(value) or own for value, own in zip(sheet.column(told.group), ids, strict=True))
