"""The compact local copy of an imported data set: how it is built, checked and read.

``$ROBMED_HOME/datasets/<name>/`` (default ``~/.cache/robustbench-med``) holds

- ``images-<modality>.npy``: uint8 (M, C, H, W), the images of one split next to each other;
- ``table-<modality>.npy``: float32 (N, F), a row per row of the manifest, where the set has a table;
- ``manifest.csv``: a row per sample (split, id, group, rows, publisher's files, labels, subgroups);
- ``notes.csv``: what the import did to single files (part, file, what), where it did anything;
- ``dataset.json``: options, class names, shapes, counts, caveats and the manifest's hash.
"""

from __future__ import annotations

import csv
import io
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import SPLITS, DatasetInfo, DataSource, ImportReport, Modality, Split
from robustbench_med.data.kept_tables import file_of, read_rows, recorded_modality, write_tables
from robustbench_med.data.listing import Table
from robustbench_med.data.manifest import (
    Sample,
    compare_with_published,
    csv_text,
    manifest_row,
    parse_row,
    split_manifest,
)
from robustbench_med.data.notes import Note
from robustbench_med.data.reading import ImageSet
from robustbench_med.data.splits import manifest_hash
from robustbench_med.util.arrays import read_npy
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import (
    given_path,
    read_json,
    read_text,
    replacing_folder,
    write_json,
    write_text,
)

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Content:
    """What an importer read from the publisher's folders.

    Attributes:
        images: per modality; images that no sample uses are not stored.
        files_found: number of the publisher's image files per part, before anything was dropped.
        left_out: what did not come in and why, a line each.
        caveats: what a reader of a number on this very copy must know, besides ``info.caveats``.
        notes: per part of the data what was done to single files.
        tables: per modality that is a table its rows, one for each of ``samples``.
    """

    samples: tuple[Sample, ...]
    images: Mapping[str, ImageSet]
    files_found: Mapping[str, int]
    left_out: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    notes: Mapping[str, Sequence[Note]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What ``dataset.json`` says about a local copy.

    Attributes:
        options: the import's options.
        classes: per head the class names in label order.
        shapes: per modality (M, C, H, W).
        counts: samples per split ("train") and class ("train/diagnosis/MEL").
        split_sha256: hash of the split in the form in which it is published.
        tables: per modality that is a table what its columns are.
    """

    format_version: int
    name: str
    licence: str
    citation: str
    options: Mapping[str, Any]
    classes: Mapping[str, list[str]]
    shapes: Mapping[str, list[int]]
    counts: Mapping[str, int]
    files_found: Mapping[str, int]
    caveats: list[str]
    manifest_sha256: str
    split_sha256: str
    tables: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Rebuild a record (AttributeError, KeyError, TypeError or ValueError when it is none)."""
        return cls(
            format_version=int(value["format_version"]),
            name=str(value["name"]),
            licence=str(value["licence"]),
            citation=str(value["citation"]),
            options=dict(value["options"]),
            classes={task: [str(name) for name in names] for task, names in value["classes"].items()},
            shapes={name: [int(side) for side in shape] for name, shape in value["shapes"].items()},
            counts={key: int(count) for key, count in value["counts"].items()},
            files_found={key: int(count) for key, count in value["files_found"].items()},
            caveats=[str(caveat) for caveat in value["caveats"]],
            manifest_sha256=str(value["manifest_sha256"]),
            split_sha256=str(value["split_sha256"]),
            tables=dict(value.get("tables", {})),
        )


class ImportedSource(DataSource):
    """A data set that a person downloads and imports once.

    Subclasses say how to check options, describe the set and read the publisher's layout.

    Attributes:
        page, access: where the download is, and what it takes to get it.
        split_of: the data set whose published split this is to be, where that is another one.
    """

    name: str
    page: str = ""
    access: str = "free"
    split_of: str = ""

    @abstractmethod
    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options with defaults filled in (UserError for an unknown name or a bad value)."""

    @abstractmethod
    def describe(self, options: Mapping[str, Any]) -> DatasetInfo:
        """The data set as these (checked) options make it, without what only its tables can say."""

    @abstractmethod
    def collect(self, source: Path, options: Mapping[str, Any]) -> Content:
        """Read the publisher's layout (UserError when it is not what it should be)."""

    def load(self, split: str) -> Split:
        """Return a split of the local copy.

        Raises:
            UserError: no such split, not imported yet, or the copy is damaged.
        """
        if split not in SPLITS:
            raise UserError(f"{self.name} has no split {split!r}; choose one of {', '.join(SPLITS)}")
        record = read_record(self.name, self.page)
        try:
            info = self.describe(self.check_options(record.options))
        except UserError as error:
            raise _damaged(self.name, "dataset.json", f"has unusable options ({str(error)[:200]})") from error
        return _read_split(record, info, split)

    def import_from(self, source: Path, **options: Any) -> ImportReport:
        """Read the publisher's layout and replace the local copy by it, as a whole.

        Raises:
            UserError: an option or the layout cannot be used; the previous copy stays.
        """
        checked = self.check_options(options)
        content = self.collect(source, checked)
        return _write(self.describe(checked), content, checked, self.split_of or self.name)


def home() -> Path:
    """The folder of everything this package keeps for a user: $ROBMED_HOME or a cache folder.

    Raises:
        UserError: there is no such folder to name.
    """
    chosen = os.environ.get("ROBMED_HOME")
    try:
        return given_path(chosen or "~/.cache/robustbench-med")
    except UserError as error:
        raise UserError(f"{error}; set ROBMED_HOME to a folder that can be written") from error


def dataset_folder(name: str) -> Path:
    """Where the local copy of a data set lies (whether or not it is there)."""
    return home() / "datasets" / name


def read_record(name: str, page: str = "") -> Record:
    """Read ``dataset.json`` of a local copy.

    Args:
        page: where the download is, for the error.

    Raises:
        UserError: the data set has not been imported, or the file is damaged.
    """
    path = dataset_folder(name) / "dataset.json"
    if not path.parent.is_dir():
        where = f" (DIR: the download from {page}, unpacked)" if page else ""
        raise UserError(f"{name} is not imported yet; run robmed data import {name} --from DIR{where}")
    try:
        record = Record.from_json(read_json(path))
    except (UserError, AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(name, path.name, "is missing or not a description of a data set") from error
    if record.format_version != FORMAT_VERSION or record.name != name:
        raise _damaged(
            name, path.name, f"describes {record.name[:80]!r} in format {str(record.format_version)[:20]}"
        )
    return record


def read_samples(record: Record, info: DatasetInfo) -> list[tuple[Sample, dict[str, int]]]:
    """All samples of a local copy, each with its image row per modality.

    Raises:
        UserError: the manifest is not the one that was imported, or a value in it is impossible.
    """
    path = dataset_folder(record.name) / "manifest.csv"
    try:
        text = read_text(path)
    except UserError as error:
        raise _damaged(record.name, path.name, "is missing or not text") from error
    if manifest_hash(text) != record.manifest_sha256:
        raise _damaged(record.name, path.name, "was changed after the import")
    try:
        return [parse_row(row, info) for row in csv.DictReader(io.StringIO(text))]
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:
        raise _damaged(record.name, path.name, f"has an unusable row ({str(error)[:200]})") from error


def _write(info: DatasetInfo, content: Content, options: Mapping[str, Any], split_of: str) -> ImportReport:
    def place(row: int) -> tuple[int, str]:
        return SPLITS.index(content.samples[row].split), content.samples[row].id

    order = sorted(range(len(content.samples)), key=place)
    samples = [content.samples[row] for row in order]
    _require_every_split(info.name, samples)
    published_text = split_manifest(info, samples)
    equals, verdict = compare_with_published(split_of, published_text)
    counts = _counts(info, samples)
    rows = {m.name: _image_rows(samples, m.name) for m in info.modalities}
    folder = dataset_folder(info.name)
    with replacing_folder(folder) as building:
        shapes = {}
        for modality, index in rows.items():
            pixels = _packed(content.images[modality], index)
            np.save(building / f"images-{modality}.npy", pixels, allow_pickle=False)
            shapes[modality] = list(pixels.shape)
        tables = write_tables(building, content.tables, order)
        manifest = csv_text([manifest_row(info, sample, rows) for sample in samples])
        write_text(building / "manifest.csv", manifest)
        notes = _notes(content)
        if notes:
            write_text(building / "notes.csv", csv_text(notes))
        record = Record(
            format_version=FORMAT_VERSION,
            name=info.name,
            licence=info.licence,
            citation=info.citation,
            options=dict(options),
            classes={head.name: list(head.answers) for head in info.heads},
            shapes=shapes,
            counts=counts,
            files_found=dict(content.files_found),
            caveats=[*content.caveats, *([] if equals else [verdict])],
            manifest_sha256=manifest_hash(manifest),
            split_sha256=manifest_hash(published_text),
            tables=tables,
        )
        write_json(building / "dataset.json", asdict(record))
    listed = (f"{len(notes)} notes, file by file, in {folder / 'notes.csv'}",) if notes else ()
    return ImportReport(folder, counts, (*content.left_out, *listed, verdict), record.split_sha256)


def _notes(content: Content) -> list[dict[str, str]]:
    """Rows of ``notes.csv``."""
    return [
        {"part": part, "file": note.file, "what": note.what}
        for part, notes in content.notes.items()
        for note in notes
    ]


def _require_every_split(name: str, samples: Sequence[Sample]) -> None:
    found = Counter(sample.split for sample in samples)
    for split in SPLITS:
        if not found[split]:
            raise UserError(
                f"{name}: the split {split!r} would be empty ({len(samples)} samples in all); "
                "the folder holds too few images"
            )


def _counts(info: DatasetInfo, samples: Sequence[Sample]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for split in SPLITS:
        chosen = [sample for sample in samples if sample.split == split]
        counts[split] = len(chosen)
        for head in info.heads:
            found = Counter(sample.labels[head.name] for sample in chosen)
            counts |= {f"{split}/{head.name}/{label}": found[label] for label in head.answers}
    return counts


def _image_rows(samples: Sequence[Sample], modality: str) -> dict[str, int]:
    """Row per file name, in order of first use: a split's images end up next to each other."""
    rows: dict[str, int] = {}
    split_of: dict[str, str] = {}
    for sample in samples:
        file = sample.files[modality]
        rows.setdefault(file, len(rows))
        if split_of.setdefault(file, sample.split) != sample.split:
            raise ValueError(f"{file} is in {split_of[file]} and in {sample.split}")
    return rows


def _packed(images: ImageSet, rows: Mapping[str, int]) -> NDArray[np.uint8]:
    position = {name: index for index, name in enumerate(images.names)}
    return images.pixels[[position[name] for name in rows]]


def _read_split(record: Record, info: DatasetInfo, split: str) -> Split:
    for head in info.heads:
        if record.classes.get(head.name) != list(head.answers):
            raise _damaged(record.name, "dataset.json", f"lists unknown {head.name} classes")
    whole = read_samples(record, info)
    places = [row for row, (sample, _) in enumerate(whole) if sample.split == split]
    chosen = [whole[row] for row in places]
    if not chosen:
        raise _damaged(record.name, "manifest.csv", f"has no samples of {split!r}")
    samples = [sample for sample, _ in chosen]
    arrays: dict[str, NDArray[Any]] = {}
    rows: dict[str, NDArray[np.int64]] = {}
    for modality in info.modalities:
        index = np.array([row_of[modality.name] for _, row_of in chosen], np.int64)
        arrays[modality.name], rows[modality.name] = _split_images(record, modality, index)
    tables = _split_tables(record, np.array(places), len(whole))
    arrays |= {modality.name: values for modality, values in tables}
    rows |= {modality.name: np.arange(len(places)) for modality, _ in tables}
    modalities = (*info.modalities, *(modality for modality, _ in tables))
    return Split(
        name=split,
        info=replace(info, modalities=modalities, caveats=(*info.caveats, *record.caveats)),
        arrays=arrays,
        rows=rows,
        labels={
            head.name: np.array([head.answers.index(s.labels[head.name]) for s in samples], np.int64)
            for head in info.heads
        },
        ids=tuple(sample.id for sample in samples),
        groups=tuple(sample.group for sample in samples),
        subgroups={name: tuple(s.subgroups[name] for s in samples) for name in samples[0].subgroups},
    ).validate()


def _split_tables(
    record: Record, places: NDArray[np.int64], count: int
) -> list[tuple[Modality, NDArray[np.float32]]]:
    """The tables of a data set, and of each the rows at ``places``."""
    found = []
    for name, said in record.tables.items():
        try:
            modality = recorded_modality(said)
            found.append((modality, read_rows(dataset_folder(record.name), modality, count)[places]))
        except (OSError, ValueError, TypeError, KeyError, UserError) as error:
            raise _damaged(record.name, file_of(name), "is missing or not what was imported") from error
    return found


def _split_images(
    record: Record, modality: Modality, index: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images between the lowest and highest row of a split, and the rows counted from there."""
    file = f"images-{modality.name}.npy"
    try:
        stored = read_npy(dataset_folder(record.name) / file)
    except (OSError, ValueError) as error:
        raise _damaged(record.name, file, "is missing, cut off or not a plain array") from error
    declared = tuple(record.shapes.get(modality.name, ()))
    if stored.dtype != np.uint8 or stored.shape != declared or stored.shape[1:] != modality.shape:
        raise _damaged(
            record.name, file, f"is not the uint8 array of shape {str(declared)[:80]} that was imported"
        )
    if index.min() < 0 or index.max() >= len(stored):
        raise _damaged(record.name, "manifest.csv", f"points to a row that {file} does not have")
    first = index.min()
    return np.array(stored[first : index.max() + 1]), index - first


def _damaged(name: str, file: str, what: str) -> UserError:
    path = dataset_folder(name) / file
    return UserError(f"{path} {what}; import again with robmed data import {name} --from DIR")
