"""All samples of somebody's data, every split of them, before any file is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import SPLITS, DatasetInfo, DataSource, Modality, Split
from robustbench_med.api.heads import Head
from robustbench_med.data.described import Description
from robustbench_med.data.files import form_of, read_files
from robustbench_med.util.errors import UserError

SPLIT_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""How people call the splits, in lower case."""


NO_PATIENTS: Final = "No patients are named: every sample counts as a patient of its own."


@dataclass(frozen=True)
class Table:
    """A modality that is a table: float32 (N, F) of all samples, missing values filled in."""

    values: NDArray[np.float32]
    modality: Modality


@dataclass(frozen=True)
class Listing:
    """N samples of all splits.

    Attributes:
        splits: of each sample; all "test" when nobody said.
        files: by modality the file of each sample; None where there is none.
        tables: by modality.
        labels: by head, as ``Split`` has them.
        said: what was guessed, a line each.
        groups_known: whether somebody said which samples belong to one patient.
    """

    splits: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    files: Mapping[str, tuple[Path | None, ...]]
    tables: Mapping[str, Table]
    heads: tuple[Head, ...]
    labels: Mapping[str, NDArray[np.int64]]
    subgroups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    said: tuple[str, ...] = ()
    groups_known: bool = False


@dataclass(frozen=True)
class ListedSource(DataSource):
    """Data that lies in files, listed by folders or by a CSV."""

    name: str
    listing: Listing
    description: Description

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that have samples."""
        return tuple(split for split in SPLITS if split in self.listing.splits)

    def load(self, split: str) -> Split:
        """Read the files of one split.

        Raises:
            UserError: there is no such split; files are missing, broken, or of several sizes.
        """
        listing, told = self.listing, self.description
        rows = rows_of_split(self.name, listing.splits, split)
        _require_cases_apart(self.name, listing.heads)
        said = [*listing.said, *(() if listing.groups_known else (NO_PATIENTS,))]
        arrays: dict[str, NDArray[Any]] = {}
        modalities: list[Modality] = []
        for modality, files in listing.files.items():
            wanted = told.input(modality)
            whole = _all_there(modality, files, listing.ids)
            form = form_of(modality, whole, wanted, told.axes)
            arrays[modality], done = read_files(
                modality, [whole[row] for row in rows], form, wanted, told.axes
            )
            said += [*form.said, *done]
            kind = "image" if len(form.shape) == 3 else "volume"
            modalities.append(Modality(modality, form.shape, wanted.title or modality, kind))  # type: ignore[arg-type]
        for modality, table in listing.tables.items():
            arrays[modality] = table.values[rows]
            modalities.append(table.modality)
        return Split(
            name=split,
            info=info_of(self.name, told, tuple(modalities), listing.heads, said),
            arrays=arrays,
            rows={modality: np.arange(len(rows)) for modality in arrays},
            labels={head: labels[rows] for head, labels in listing.labels.items()},
            ids=tuple(listing.ids[row] for row in rows),
            groups=tuple(listing.groups[row] for row in rows),
            subgroups={name: tuple(each[row] for row in rows) for name, each in listing.subgroups.items()},
        )


def info_of(
    name: str,
    told: Description,
    modalities: tuple[Modality, ...],
    heads: tuple[Head, ...],
    said: Sequence[str],
) -> DatasetInfo:
    """The data set that a description and what was found make; guesses are among its caveats."""
    return DatasetInfo(
        name=name,
        title=told.title or name,
        pairing=told.pairing,
        modalities=modalities,
        heads=tuple(_about(told, head, modalities) for head in heads),
        licence=told.licence,
        citation=told.citation,
        caveats=(*told.caveats, *said),
        mirror=told.mirror,
    )


def rows_of_split(name: str, splits: Sequence[str], split: str) -> NDArray[np.int64]:
    """The samples of a split.

    Raises:
        UserError: there are none.
    """
    if split not in SPLITS:
        raise UserError(f"{name} has no split {split!r}; choose one of {', '.join(SPLITS)}")
    rows = np.flatnonzero(np.array(splits) == split)
    if not len(rows):
        there = ", ".join(f"{each} {count}" for each, count in Counter(splits).items())
        raise UserError(
            f"{name} has no {split} split, only {there}; put {split} samples beside them (a folder, a column "
            f"split, or arrays called {split})"
        )
    return rows


def split_word(text: str) -> str | None:
    """The split that somebody's word means, if it means one."""
    return SPLIT_WORDS.get(text.strip().lower())


def same_but_for_case(names: Sequence[str]) -> tuple[str, str] | None:
    """Two names that differ in upper and lower case only, or in spaces at their ends."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.strip().casefold(), name)
        if other != name:
            return other, name
    return None


def _require_cases_apart(where: str, heads: Sequence[Head]) -> None:
    for head in heads:
        pair = same_but_for_case([*head.answers] if head.label_shape == () else [*head.questions])
        if pair:
            raise UserError(
                f"{where}: {head.name} has the classes {pair[0]!r} and {pair[1]!r}, which differ only in "
                "case; rename one"
            )


def _all_there(modality: str, files: Sequence[Path | None], ids: Sequence[str]) -> list[Path]:
    missing = [sample for sample, path in zip(ids, files, strict=True) if path is None]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(ids)} samples have no file of {modality}, the first is {missing[0]!r}; "
            "a model needs every input: fill them in, or take the samples out"
        )
    return [path for path in files if path is not None]


def _about(told: Description, head: Head, modalities: Sequence[Modality]) -> Head:
    """The head with the modalities that its label is about."""
    there = tuple(modality.name for modality in modalities)
    chosen = told.heads[head.name].modalities if head.name in told.heads else ()
    odd = next((name for name in chosen if name not in there), None)
    if odd is not None:
        raise UserError(f"head {head.name}: it has no modality {odd!r}; there are {', '.join(there)}")
    return replace(head, modalities=chosen or there)
