"""Public data sets that are folders or tables of images, each described in ``configs/datasets/<name>.yaml``.

One reader for all of them: what differs is said, not programmed. A further set of this kind is a description;
a stranger one is a ``DataSource``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from pydantic import ConfigDict

from robustbench_med.api.data import SPLITS, DatasetInfo, Modality
from robustbench_med.api.heads import SingleLabel
from robustbench_med.data import importing, splits, store
from robustbench_med.data.described import Input
from robustbench_med.data.features import FILLED, MISSING, features_of
from robustbench_med.data.files import MOST_BYTES
from robustbench_med.data.layout import Found, Part, Row, Words, find
from robustbench_med.data.listing import Table
from robustbench_med.data.manifest import Sample
from robustbench_med.data.notes import Note, few, summary
from robustbench_med.data.reading import ImageSet, read_images
from robustbench_med.data.tables import age_band, stated
from robustbench_med.util.config import build, read_yaml, shipped
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT

FOLDER: Final = "datasets"
SMALLEST, LARGEST = 28, 224


@dataclass(frozen=True)
class Picture:
    """An image of every sample.

    Attributes:
        channels: 1 for grey, 3 for colour.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    title: str
    channels: Literal[1, 3]


@dataclass(frozen=True)
class Asked:
    """A head.

    Attributes:
        classes: in label order, each with the publisher's words for it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    column: str
    classes: Mapping[str, Words]


@dataclass(frozen=True)
class SplitRule:
    """Who is in which split.

    Attributes:
        column: says it, by the words of each split.
        carve_val, carve_test: shares of the groups that the publisher left together, or in "train", which are
            taken for these splits by a hash of the group, of each class alike.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    column: str = "split"
    train: Words = ("train",)
    val: Words = ("val",)
    test: Words = ("test",)
    carve_val: float = 0.0
    carve_test: float = 0.0

    @property
    def words(self) -> dict[str, str]:
        """The split that each word means: of those that have it the first."""
        by_split = {"test": self.test, "val": self.val, "train": self.train}
        return {word.lower(): split for split, each in by_split.items() for word in each}


@dataclass(frozen=True)
class Published:
    """A public data set.

    Attributes:
        page: where the download is.
        access: what it takes to get it, in words.
        counts: by class of the first head, how many samples the publisher has.
        tables: by modality, columns that are a table.
        group: the columns that say who a sample is of; without them each is alone.
        id: the column of ids; without it the first file's name.
        subgroups: by name the column.
        age: the column of years, for the subgroup ``age_band``.
        size: default of the option.
    """

    title: str
    licence: str
    citation: str
    page: str
    access: str
    images: Mapping[str, Picture]
    heads: Mapping[str, Asked]
    parts: tuple[Part, ...]
    split: SplitRule
    caveats: tuple[str, ...]
    counts: Mapping[str, int]
    tables: Mapping[str, Input] = field(default_factory=dict)
    group: Words = ()
    id: str | None = None
    subgroups: Mapping[str, str] = field(default_factory=dict)
    age: str | None = None
    mirror: tuple[Literal["horizontal", "vertical"], ...] = ()
    size: int = 48

    @property
    def words(self) -> dict[str, list[str]]:
        """By column the values that it may have in a path."""
        known = {self.split.column: list(self.split.words)}
        for asked in self.heads.values():
            known[asked.column] = [word for each in asked.classes.values() for word in each]
        return known


def published_names() -> list[str]:
    """The data sets that are described, sorted."""
    return list(shipped(FOLDER))


def description(name: str) -> Published:
    """The description of a data set (KeyError when there is none)."""
    path = shipped(FOLDER)[name]
    return build(Published, read_yaml(path), str(path))


@dataclass(frozen=True)
class Known:
    """A sample whose labels, group and split are known; split "" where nobody put it anywhere."""

    id: str
    row: Row
    labels: Mapping[str, str]
    group: str
    split: str


class PublishedSource(store.ImportedSource):
    """A data set by its description; import option size."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.said = description(name)
        self.page, self.access = self.said.page, self.said.access

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Option ``size``, with its default filled in."""
        importing.refuse_unknown(options, ("size",))
        return {"size": importing.int_option(options, "size", self.said.size, SMALLEST, LARGEST)}

    def describe(self, options: Mapping[str, Any]) -> DatasetInfo:
        """The data set at the chosen size, without its tables."""
        said, size = self.said, options["size"]
        modalities = (*said.images, *said.tables)
        return DatasetInfo(
            name=self.name,
            title=said.title,
            pairing="paired",
            modalities=tuple(
                Modality(name, (each.channels, size, size), each.title) for name, each in said.images.items()
            ),
            heads=tuple(
                SingleLabel(name, classes=tuple(each.classes), modalities=modalities)
                for name, each in said.heads.items()
            ),
            licence=said.licence,
            citation=said.citation,
            caveats=said.caveats,
            mirror=said.mirror,
        )

    def collect(self, source: Path, options: Mapping[str, Any]) -> store.Content:
        """Read what the description says.

        Raises:
            UserError: something is not where the publisher puts it, or cannot be read.
        """
        said = self.said
        found = find(source, said.parts, said.words, said.page)
        known = _known(said, found.rows)
        partial = importing.compare_counts("samples", _counts(said, known), said.counts)
        images = _images(said, found, options["size"])
        kept, copies, dropped = _distinct(known, images)
        whole = _in_splits(self.name, said, kept)
        doubts = _doubts(said, whole)
        guessed: list[str] = []
        tables = {name: _table(name, each, whole, guessed) for name, each in said.tables.items()}
        return store.Content(
            samples=tuple(_sample(said, each) for each in whole),
            images=images,
            files_found={name: len(each) for name, each in found.files.items()},
            left_out=(
                *(*partial, *summary("files", found.notes)),
                *(line for name, each in images.items() for line in summary(f"{name} images", each.notes)),
                *(*copies, *doubts, *guessed),
            ),
            caveats=(*partial, *copies, *doubts, *_in_short(tables, guessed)),
            notes={
                "download": found.notes,
                **{name: each.notes for name, each in images.items()},
                "samples": dropped,
            },
            tables=tables,
        )


def _known(said: Published, rows: Sequence[Row]) -> list[Known]:
    """The samples in an order that prefers those of the test split where two are copies."""
    known: list[Known] = []
    for row in rows:
        labels = {name: _label(asked, row) for name, asked in said.heads.items()}
        split = row.split or said.split.words.get(row.cells.get(said.split.column, "").lower(), "")
        own = _cell(row, said.id) if said.id else next(iter(row.files.values()))
        parts = [split if column == "split" else stated(_cell(row, column)) for column in said.group]
        group = "/".join(parts) if parts and parts[-1] else own
        known.append(Known(own, row, labels, group, split))
    twice = [name for name, count in Counter(each.id for each in known).items() if count > 1 or not name]
    if twice:
        raise UserError(f"{len(twice)} ids are empty or given twice ({few(twice)}); download the table again")
    order = {split: place for place, split in enumerate(reversed(SPLITS))}
    return sorted(known, key=lambda each: (order.get(each.split, len(order)), each.id))


def _cell(row: Row, column: str) -> str:
    """What a row has in a column.

    Raises:
        UserError: there is no such column.
    """
    if column not in row.cells:
        raise UserError(
            f"{row.where}: there is no column {column!r} (there are {few(list(row.cells))}); "
            "this is not the publisher's table"
        )
    return row.cells[column].strip()


def _label(asked: Asked, row: Row) -> str:
    text = _cell(row, asked.column)
    for name, theirs in asked.classes.items():
        if text.lower() in {word.lower() for word in theirs}:
            return name
    expected = few([word for theirs in asked.classes.values() for word in theirs])
    raise UserError(f"{row.where}: {text!r} in {asked.column} is none of the publisher's classes: {expected}")


def _counts(said: Published, known: Sequence[Known]) -> Counter[str]:
    head = next(iter(said.heads))
    return Counter(each.labels[head] for each in known)


def _images(said: Published, found: Found, size: int) -> dict[str, ImageSet]:
    """Every image, square and small.

    Raises:
        UserError: one cannot be used, or they are too many at this size.
    """
    pixels = sum(len(found.files[name]) * each.channels for name, each in said.images.items()) * size**2
    if pixels > MOST_BYTES:
        raise UserError(
            f"{len(found.rows)} samples at size {size} need {pixels / 2**30:.0f} GiB, more than "
            f"{MOST_BYTES // 2**30}; choose a smaller --option size="
        )
    return {
        name: read_images(found.files[name], each.channels, size, f"{name} images")
        for name, each in said.images.items()
    }


def _distinct(
    known: Sequence[Known], images: Mapping[str, ImageSet]
) -> tuple[list[Known], tuple[str, ...], tuple[Note, ...]]:
    """One sample for every image (the first where several share one); the rest in lines and by id."""
    kept = {each.id: each for each in known}
    lines: list[str] = []
    dropped: list[Note] = []
    for modality, found in images.items():
        distinct = splits.drop_duplicates(
            list(kept),
            {name: found.digests[each.row.files[modality]] for name, each in kept.items()},
            {name: "\0".join(each.labels.values()) for name, each in kept.items()},
        )
        across = sum(kept[name].split != "test" for name in distinct.copies)
        held_out = any(each.split == "test" for each in known)
        kept = {name: kept[name] for name in distinct.kept}
        dropped += splits.drop_notes(distinct)
        if distinct.copies:
            where = f"; {across} of them outside the publisher's test split" if held_out else ""
            lines.append(
                f"dropped because another one has the same {modality} image, exactly: "
                f"{len(distinct.copies)} ({few(distinct.copies)}){where}"
            )
        if distinct.conflicting:
            lines.append(
                f"dropped because others have the same {modality} image under another label: "
                f"{len(distinct.conflicting)} ({few(distinct.conflicting)})"
            )
    return list(kept.values()), tuple(lines), tuple(dropped)


def _in_splits(name: str, said: Published, known: Sequence[Known]) -> list[Known]:
    """The samples with every one of them in a split: whole groups, of each class in proportion.

    A group counts for the rarest class it has.
    """
    counts = _counts(said, known)
    head = next(iter(said.heads))
    strata: dict[str, str] = {}
    for each in known:
        if each.split in ("", "train"):
            label = each.labels[head]
            strata[each.group] = min(strata.get(each.group, label), label, key=lambda one: (counts[one], one))
    fractions = splits.Fractions(val=said.split.carve_val, test=said.split.carve_test)
    assigned = splits.assign_splits(strata, fractions, seed=splits.SEED, purpose=name)
    return [
        each if each.split in ("val", "test") else Known(**{**vars(each), "split": assigned[each.group]})
        for each in known
    ]


def _doubts(said: Published, known: Sequence[Known]) -> list[str]:
    """Who may be in two splits, against what is said of the data set."""
    lines: list[str] = []
    where: dict[str, set[str]] = {}
    for each in known:
        where.setdefault(each.group, set()).add(each.split)
    across = [group for group, found in where.items() if len(found) > 1]
    if across:
        lines.append(
            f"{len(across)} of {len(where)} groups ({few(across)}) are in more than one split, as these "
            "files have them: a number on these data may be too good"
        )
    alone = sum(each.group == each.id for each in known) if said.group else 0
    if alone:
        lines.append(
            f"{alone} of {len(known)} samples have no {said.group[-1]}; each is taken for one of its own, "
            "so that one of several may be in two splits"
        )
    return lines


def _in_short(tables: Mapping[str, Table], guessed: Sequence[str]) -> list[str]:
    """What was guessed of tables, with what is missing in a line for each of them."""
    lines = [line for line in guessed if FILLED not in line]
    for name, table in tables.items():
        flags = sum(feature.endswith(f" {MISSING}") for feature in table.modality.features)
        if flags:
            lines.append(f"{name}: {flags} columns have gaps, filled in, each with a feature that says so")
    return lines


def _table(name: str, wanted: Input, known: Sequence[Known], guessed: list[str]) -> Table:
    """The columns of a table, of every sample.

    Raises:
        UserError: one is missing, or holds something else than finite numbers where it should.
    """
    columns = dict.fromkeys((*wanted.columns, *wanted.categories))
    cells = {column: [_cell(each.row, column) for each in known] for column in columns}
    for column in (each for each in wanted.columns if each not in wanted.categories):
        for each, text in zip(known, cells[column], strict=True):
            if stated(text) and not _is_finite(text):
                raise UserError(
                    f"{each.row.where}: {text[:40]!r} in {column} is no number; download the table again"
                )
    train = np.array([each.split == "train" for each in known])
    return features_of(name, cells, wanted, train, guessed)


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _sample(said: Published, known: Known) -> Sample:
    subgroups = {name: stated(_cell(known.row, column)) for name, column in said.subgroups.items()}
    if said.age is not None:
        age = _cell(known.row, said.age)
        try:
            subgroups["age_band"] = age_band(age)
        except ValueError as error:
            raise UserError(f"{known.row.where}: the age {age!r} is no number") from error
    return Sample(known.split, known.id, known.group, known.row.files, known.labels, subgroups)
