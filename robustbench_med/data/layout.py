"""How a publisher lays out a download, in a few words, and the samples that lie in one.

A place is a template of paths below the download, without suffix: ``{kind}`` is a column whose value stands
in the path, ``*`` anything within one name (but not in a table's places). Folders above it do not matter,
since unpacking adds some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict

from robustbench_med.data.decoding import IMAGE_SUFFIXES
from robustbench_med.data.folders import is_junk, printable
from robustbench_med.data.notes import Note
from robustbench_med.data.sheet import Sheet, read_sheet
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT

FIELD: Final = re.compile(r"\{(\w+)\}|\*")
INDEXES: Final = "indexes"
"""The column of a list of rows."""


def _words(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""One word, or several."""
SplitName = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Part:
    """Samples that lie in one place of a download: those of a table, or all files of some folders.

    Attributes:
        like: one of its files, in the publisher's layout, for people.
        files: by modality its places; of a table's row one, of folders several, of which the first fits.
        others: by what they are the places of images that are no samples.
        table: what the table is called; the first that is there.
        columns: by name a column of the table that is called otherwise there.
        parse: by column of the table a template, whose columns are added where it fits.
        rows: by split the table that lists its rows, counted from 0 (column ``indexes``).
        split: that all of these samples are in.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    like: str
    files: Mapping[str, Words]
    others: Mapping[str, Words] = field(default_factory=dict)
    table: Words = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    parse: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[SplitName, str] = field(default_factory=dict)
    split: SplitName | None = None


@dataclass(frozen=True)
class Row:
    """One sample as it lies in a download.

    Attributes:
        cells: by column its text.
        files: by modality the name of its file within the layout.
        split: that the publisher put it into; "" where nobody did.
        where: it was found, for errors.
    """

    cells: Mapping[str, str]
    files: Mapping[str, str]
    split: str
    where: str


@dataclass(frozen=True)
class Found:
    """All samples of a download, by modality the files by their names, and what was not read."""

    rows: tuple[Row, ...]
    files: Mapping[str, Mapping[str, Path]]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Tree:
    """Every file below a folder but what tools leave behind, by its path with "/": shallow ones first."""

    root: Path
    files: Mapping[str, Path]

    @property
    def images(self) -> dict[str, Path]:
        """The images by their suffix."""
        return {name: path for name, path in self.files.items() if _is_image(name)}


def find(source: Path, parts: Sequence[Part], words: Mapping[str, Sequence[str]], page: str) -> Found:
    """The samples of a download.

    Args:
        words: by column the values that it may have in a path.
        page: the publisher's, for errors.

    Raises:
        UserError: a part is not there, with what was expected where; a table that cannot be read; a row whose
            file is missing, or that shares it with another.
    """
    tree = _tree(source)
    rows: list[Row] = []
    files: dict[str, dict[str, Path]] = {}
    notes: list[Note] = []
    for part in parts:
        found = _of_table(tree, part, page) if part.table else _of_folders(tree, part, words)
        if not found.rows:
            raise UserError(_expected(source, part, page))
        rows += found.rows
        notes += found.notes
        for modality, each in found.files.items():
            files.setdefault(modality, {}).update(each)
    noted = {note.file for note in notes}
    used = {path for each in files.values() for path in each.values()}
    notes += [
        Note(name, "image that is no part of the publisher's layout, not read")
        for name, path in tree.images.items()
        if path not in used and name not in noted
    ]
    return Found(tuple(rows), files, tuple(notes))


def pattern(template: str, words: Mapping[str, Sequence[str]]) -> re.Pattern[str]:
    """A place as a regular expression of a path without its suffix; ``name`` is what lies below ``above``."""
    text, at, seen = "", 0, set()
    for match in FIELD.finditer(template):
        text += re.escape(template[at : match.start()])
        column, at = match.group(1), match.end()
        if column is None:
            text += "[^/]*?"
        elif column in seen:
            text += f"(?P={column})"
        else:
            seen.add(column)
            known = sorted(words.get(column, ()), key=len, reverse=True)
            text += f"(?P<{column}>{'|'.join(map(re.escape, known)) or '[^/]+?'})"
    return re.compile(rf"(?P<above>(?:[^/]+/)*?)(?P<name>{text}{re.escape(template[at:])})", re.IGNORECASE)


def _tree(source: Path) -> Tree:
    """The files below a folder.

    Raises:
        UserError: it is no folder.
    """
    if not source.is_dir():
        raise UserError(f"there is no folder {source}; --from must name the download's folder, unpacked")
    found: dict[str, Path] = {}
    for path in sorted(source.rglob("*"), key=lambda each: (len(each.parts), each)):
        relative = path.relative_to(source)
        if not any(map(is_junk, relative.parts)) and path.is_file():
            found.setdefault(printable(relative.as_posix()), path)
    return Tree(source, found)


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _stem(name: str) -> str:
    """A path without the suffix of an image."""
    return str(PurePosixPath(name).with_suffix("")) if _is_image(name) else name


def _expected(source: Path, part: Part, page: str) -> str:
    return (
        f"{source} holds nothing like {part.like}; --from must name the folder in which that lies, as the "
        f"publisher unpacks it ({page})"
    )


def _of_folders(tree: Tree, part: Part, words: Mapping[str, Sequence[str]]) -> Found:
    """Every image whose path fits a place; of a file that lies there twice the shallower one."""
    modality, places = next(iter(part.files.items()))
    fitting = [pattern(place, words) for place in places]
    columns = {column: "" for place in places for column in FIELD.findall(place) if column}
    others = [(what, pattern(place, words)) for what, each in part.others.items() for place in each]
    rows: dict[str, Row] = {}
    files: dict[str, Path] = {}
    notes: list[Note] = []
    for name, path in tree.files.items():
        stem = _stem(name)
        what = next((what for what, each in others if each.fullmatch(stem)), None)
        match = next((match for each in fitting if (match := each.fullmatch(stem))), None)
        if what is not None:
            notes += [Note(name, f"{what}, no sample")] if _is_image(name) else []
        elif match is None:
            continue
        elif not _is_image(name):
            notes.append(Note(name, "no image by its suffix, not read"))
        elif (known := name[len(match["above"]) :]) in rows:
            notes.append(Note(name, "the same file again in another folder, not read"))
        else:
            texts = {key: text for key, text in match.groupdict().items() if key in columns}
            rows[known] = Row({**columns, **texts}, {modality: known}, part.split or "", name)
            files[known] = path
    return Found(tuple(rows.values()), {modality: files}, tuple(notes))


def _of_table(tree: Tree, part: Part, page: str) -> Found:
    """Every row of a table, with its files."""
    path = _table(tree, part.table)
    if path is None:
        raise UserError(_expected(tree.root, part, page))
    sheet = read_sheet(path)
    cells = {**sheet.columns, **{name: sheet.column(theirs) for name, theirs in part.columns.items()}}
    for column, place in part.parse.items():
        cells |= _parsed(sheet, column, place)
    for column in (found for places in part.files.values() for found in FIELD.findall(places[0])):
        sheet.column(column)  # which says what is missing
    splits, notes = _splits_by_row(tree, part, sheet)
    numbers = [row for row in range(len(sheet)) if splits[row] or not part.rows]
    files: dict[str, dict[int, tuple[str, Path]]] = {}
    missing: list[str] = []
    index = _by_own_name(tree)
    for modality, places in part.files.items():
        targets = {
            row: _filled(places[0], {name: texts[row] for name, texts in cells.items()}) for row in numbers
        }
        found = {row: _file_at(index, target) for row, target in targets.items()}
        missing += [target for row, target in targets.items() if found[row] is None]
        files[modality] = {row: at for row, at in found.items() if at is not None}
        _refuse_shared(path, files[modality])
    if missing:
        raise UserError(
            f"{len(missing)} images of {path.name} are missing below {tree.root}, the first is {missing[0]} "
            f"(expected: {part.like}); download and unpack them as well ({page})"
        )
    rows = [
        Row(
            {name: texts[row] for name, texts in cells.items()},
            {modality: each[row][0] for modality, each in files.items()},
            splits[row] or part.split or "",
            f"{path.name}, line {row + 2}",
        )
        for row in numbers
    ]
    return Found(tuple(rows), {modality: dict(each.values()) for modality, each in files.items()}, notes)


def _refuse_shared(path: Path, files: Mapping[int, tuple[str, Path]]) -> None:
    seen: dict[str, int] = {}
    for row, (name, _) in files.items():
        if seen.setdefault(name, row) != row:
            raise UserError(
                f"{path.name}: lines {seen[name] + 2} and {row + 2} have one file, {name}; download it again"
            )


def _parsed(sheet: Sheet, column: str, place: str) -> dict[str, tuple[str, ...]]:
    """The columns that a template finds in the texts of a column.

    Raises:
        UserError: a text is of another form.
    """
    fits = pattern(place, {})
    names = [name for name in FIELD.findall(place) if name]
    found: dict[str, list[str]] = {name: [] for name in names}
    for number, text in enumerate(sheet.column(column)):
        match = fits.fullmatch(_stem(text))
        if match is None:
            raise UserError(
                f"{sheet.path.name}, line {number + 2}: {text[:80]!r} in {column} is not of the form "
                f"{place}; this is not the publisher's table"
            )
        for name in names:
            found[name].append(match[name])
    return {name: tuple(texts) for name, texts in found.items()}


def _table(tree: Tree, names: Sequence[str]) -> Path | None:
    """The shallowest file of the first name that is there; a name may have folders in it."""
    for name in names:
        for each, path in tree.files.items():
            if f"/{each}".lower().endswith(f"/{name}".lower()):
                return path
    return None


def _splits_by_row(tree: Tree, part: Part, sheet: Sheet) -> tuple[list[str], tuple[Note, ...]]:
    """The split of each row, "" where no list names it."""
    count, table = len(sheet), sheet.path.name
    splits = [""] * count
    for split, name in part.rows.items():
        path = _table(tree, (name,))
        if path is None:
            raise UserError(f"{tree.root} has no {name}, which lists the rows of {table} that are {split}")
        for text in read_sheet(path).column(INDEXES):
            if not text.isdecimal() or int(text) >= count or splits[int(text)]:
                raise UserError(
                    f"{path.name}: {text[:20]!r} is no row of {table} that is free ({count} rows, each in "
                    "one split); download both again"
                )
            splits[int(text)] = split
    left = [row for row, split in enumerate(splits) if part.rows and not split]
    return splits, tuple(
        Note(f"{table}, line {row + 2}", "in none of the publisher's splits") for row in left
    )


def _filled(place: str, cells: Mapping[str, str]) -> str:
    """The end of the path of a row's file, without suffix."""
    return _stem(FIELD.sub(lambda found: cells[found.group(1)], place).replace("\\", "/"))


def _by_own_name(tree: Tree) -> dict[str, list[tuple[str, Path]]]:
    """The images by their own name, in lower case and without suffix."""
    index: dict[str, list[tuple[str, Path]]] = {}
    for name, path in tree.images.items():
        index.setdefault(PurePosixPath(name).stem.lower(), []).append((name, path))
    return index


def _file_at(index: Mapping[str, Sequence[tuple[str, Path]]], target: str) -> tuple[str, Path] | None:
    """The shallowest image whose path ends as ``target`` says, by that end of it."""
    depth = target.count("/") + 1
    for name, path in index.get(target.rpartition("/")[2].lower(), ()):
        if f"/{_stem(name)}".lower().endswith(f"/{target}".lower()):
            return "/".join(PurePosixPath(name).parts[-depth:]), path
    return None
