"""Somebody's own data kept under a name: ``robmed data add NAME PATH``.

``$ROBMED_HOME/datasets/<name>/`` holds ``added.json`` (what the data set is, ids, groups, labels and the
fingerprint of each split), ``<split>-<modality>.npy``, and of a joined set ``<split>-manifest.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np

from robustbench_med.api.data import SPLITS, DatasetInfo, DataSource, ImportReport, Split
from robustbench_med.api.heads import Binary, Head, MultiLabel, SingleLabel
from robustbench_med.data.kept_tables import modality_record, recorded_modality
from robustbench_med.data.store import dataset_folder, home
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json, replacing_folder, write_json, write_text

FILE: Final = "added.json"
FORMAT_VERSION: Final = 1
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}", re.ASCII | re.IGNORECASE)
HEADS: Final[Mapping[str, type[Head]]] = {each.kind: each for each in (SingleLabel, Binary, MultiLabel)}


def splits_of(source: DataSource) -> tuple[str, ...]:
    """The splits that a source has; one that does not say so has all."""
    there: tuple[str, ...] = getattr(source, "splits", SPLITS)
    return there


def is_added(name: str) -> bool:
    """Whether a data set was added under this name."""
    kept = _kept()
    return kept is not None and NAME.fullmatch(name) is not None and (kept / name / FILE).is_file()


def added_names() -> list[str]:
    """The data sets that were added, sorted."""
    kept = _kept()
    return sorted(each.name for each in kept.iterdir() if is_added(each.name)) if kept else []


def _kept() -> Path | None:
    """The folder of what was added; None where there is none: who has no home has added nothing."""
    try:
        folder = home() / "datasets"
    except UserError:
        return None
    return folder if folder.is_dir() else None


@dataclass(frozen=True)
class Added(DataSource):
    """A data set that was added."""

    name: str

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that were added."""
        return tuple(read_json(dataset_folder(self.name) / FILE)["splits"])

    def load(self, split: str) -> Split:
        """Read one split, and hold it against its fingerprint.

        Raises:
            UserError: there is no such split, or the copy is damaged.
        """
        folder = dataset_folder(self.name)
        try:
            said = read_json(folder / FILE)
            if said["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format {said['format_version']!r}")
            if split not in said["splits"]:
                raise UserError(f"{self.name} has no {split} split, only {', '.join(said['splits'])}")
            info, part = _info(said["info"]), said["splits"][split]
            arrays = {
                m.name: np.load(folder / _array_file(split, m.name), allow_pickle=False)
                for m in info.modalities
            }
            found = Split(
                name=split,
                info=info,
                arrays=arrays,
                rows={name: np.arange(len(array)) for name, array in arrays.items()},
                labels={head: np.array(labels, np.int64) for head, labels in part["labels"].items()},
                ids=tuple(part["ids"]),
                groups=tuple(part["groups"]),
                subgroups={name: tuple(each) for name, each in part["subgroups"].items()},
            ).validate()
        except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error
        if found.fingerprint != part["fingerprint"]:
            raise self._damaged(f"{split} is not what was added, by its fingerprint")
        return found

    def _damaged(self, why: str) -> UserError:
        return UserError(
            f"{dataset_folder(self.name)} is damaged ({why}); add it again with "
            f"robmed data add {self.name} PATH"
        )


def add(name: str, source: DataSource, taken: bool = False) -> ImportReport:
    """Keep a copy of every split that a source has.

    Args:
        taken: whether a data set of this name is registered.

    Raises:
        UserError: the name cannot be used, or the source has no split that can be read.
    """
    if NAME.fullmatch(name) is None:
        raise UserError(f"{name!r} is no name; use letters, digits and . _ + - only, up to 64")
    folder = dataset_folder(name)
    if taken or (folder.exists() and not is_added(name)):
        raise UserError(f"{name!r} is a data set already; choose another name")
    found = {split: source.load(split).validate() for split in splits_of(source)}
    info = next(reversed(found.values())).info
    with replacing_folder(folder) as building:
        for split, part in found.items():
            for modality in part.info.modalities:
                values = part.arrays[modality.name][part.rows[modality.name]]
                np.save(building / _array_file(split, modality.name), values, allow_pickle=False)
            if hasattr(source, "manifest"):  # of a joined set: who was paired with whom
                write_text(building / f"{split}-manifest.csv", source.manifest(split))
        content = {
            "format_version": FORMAT_VERSION,
            "info": _info_record(name, info),
            "splits": {split: _split_record(part) for split, part in found.items()},
        }
        write_json(building / FILE, content)
    counts = {split: len(part) for split, part in found.items()}
    return ImportReport(folder, counts, info.caveats, found[next(reversed(found))].fingerprint)


def _array_file(split: str, modality: str) -> str:
    return f"{split}-{re.sub(r'[^a-zA-Z0-9_+-]', '_', modality)}.npy"


def _split_record(split: Split) -> dict[str, Any]:
    return {
        "ids": split.ids,
        "groups": split.groups,
        "subgroups": {name: list(values) for name, values in split.subgroups.items()},
        "labels": {head: labels.tolist() for head, labels in split.labels.items()},
        "fingerprint": split.fingerprint,
    }


def _info_record(name: str, info: DatasetInfo) -> dict[str, Any]:
    plain = ("title", "pairing", "licence", "citation", "synthetic", "caveats", "mirror")
    heads = [
        {"kind": head.kind, **{each.name: getattr(head, each.name) for each in fields(head)}}
        for head in info.heads
    ]
    return {
        "name": name,
        **{each: getattr(info, each) for each in plain},
        "modalities": [modality_record(each) for each in info.modalities],
        "heads": heads,
    }


def _info(said: Mapping[str, Any]) -> DatasetInfo:
    modalities = tuple(map(recorded_modality, said["modalities"]))
    heads = tuple(
        HEADS[each["kind"]](**_tuples({k: v for k, v in each.items() if k != "kind"}))
        for each in said["heads"]
    )
    return DatasetInfo(**_tuples({**said, "modalities": modalities, "heads": heads}))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
