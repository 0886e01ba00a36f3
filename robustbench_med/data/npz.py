"""Arrays in an npz, or a folder of npy files: MedMNIST's layout, and what else people call them."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import SPLITS, DataSource, Split
from robustbench_med.api.heads import Head
from robustbench_med.data.arrays import Taken, as_array, split_of_arrays
from robustbench_med.data.described import FILE, Description
from robustbench_med.data.labels import head_of_labels, head_of_rows
from robustbench_med.data.listing import NO_PATIENTS, SPLIT_WORDS, info_of
from robustbench_med.data.notes import few
from robustbench_med.util.errors import UserError, unknown

INPUT_WORDS: Final = ("x", "images", "image", "imgs", "img", "data", "inputs", "input")
LABEL_WORDS: Final = ("y", "labels", "label", "targets", "target")
ID_WORDS: Final = ("ids", "id")
GROUP_WORDS: Final = (
    "patient_ids",
    "patient_id",
    "patients",
    "patient",
    "subjects",
    "subject",
    "groups",
    "group",
)
# Of damaged, encrypted and oddly compressed archives.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, struct.error)
_SPLIT = "|".join(sorted(SPLIT_WORDS, key=len, reverse=True))
_NAME = "|".join(sorted((*INPUT_WORDS, *LABEL_WORDS), key=len, reverse=True))
KEYS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?P<split>{_SPLIT})[_.-](?P<name>.+)",
        rf"(?P<name>.+)[_.-](?P<split>{_SPLIT})",
        rf"(?P<split>{_SPLIT})(?P<name>{_NAME})",
        rf"(?P<name>{_NAME})(?P<split>{_SPLIT})",
    )
)
"""How a split is named in a key: "test_images", "x_test", "testX", "Xtest"."""


@dataclass(frozen=True)
class Stored:
    """Arrays by key, read when they are asked for.

    Attributes:
        shapes: by key, as the arrays' headers say.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def keys(self) -> tuple[str, ...]:
        """What the arrays are called."""
        return tuple(self.shapes)

    def array(self, key: str) -> NDArray[Any]:
        """One array.

        Raises:
            UserError: it is damaged, or holds Python objects.
        """
        where = f"{self.path.name}: {key}"
        try:
            if self.path.is_dir():
                return as_array(np.load(self.path / f"{key}.npy", allow_pickle=False), where)
            with np.load(self.path, allow_pickle=False) as archive:
                return as_array(archive[key], where)
        except (*_ZIP_ERRORS, OSError, EOFError, KeyError, MemoryError) as error:
            raise UserError(f"{where} cannot be read ({error}); save it again") from error
        except ValueError as error:
            raise UserError(
                f"{where} holds Python objects or is cut off ({error}); objects are never read, as reading "
                "them may run code: save plain arrays of numbers or text"
            ) from error


def stored_arrays(path: Path) -> Stored:
    """The arrays of an npz, or of the npy files of a folder.

    Raises:
        UserError: it is damaged, or there are none.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        if path.is_dir():
            for each in sorted(path.glob("*.npy")):
                with each.open("rb") as stream:
                    shapes[each.stem] = _shape(stream)
        else:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    with archive.open(name) as stream:
                        shapes[name.removesuffix(".npy")] = _shape(stream)
    except (*_ZIP_ERRORS, OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} does not hold plain arrays ({error}); save it again with numpy.savez"
        ) from error
    if not shapes:
        raise UserError(f"{path} holds no arrays")
    return Stored(path, shapes)


def _shape(stream: IO[bytes]) -> tuple[int, ...]:
    """The shape in the header of an npy file."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape: tuple[int, ...] = read(stream)[0]
    return shape


@dataclass(frozen=True)
class Roles:
    """What the arrays of each split are: by modality, head and so on the key of each split."""

    inputs: Mapping[str, Mapping[str, str]]
    labels: Mapping[str, Mapping[str, str]]
    ids: Mapping[str, str]
    groups: Mapping[str, str]
    subgroups: Mapping[str, Mapping[str, str]]
    said: tuple[str, ...]

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that all inputs and labels have."""
        each = (*self.inputs.values(), *self.labels.values())
        return tuple(split for split in SPLITS if all(split in keys for keys in each))


def roles_of(stored: Stored, told: Description) -> Roles:
    """Find out by their names what arrays are; what ``dataset.yaml`` names is what it says.

    Raises:
        UserError: no inputs or labels, or names that may mean more than one thing.
    """
    found: dict[str, dict[str, str]] = {}
    for key in stored.keys:
        split, stem = split_and_stem(key)
        if found.setdefault(stem, {}).setdefault(split, key) != key:
            raise UserError(
                f"{stored.path}: {found[stem][split]!r} and {key!r} are one thing by name; rename one"
            )
    free = {stem: keys for stem, keys in found.items() if stem not in told.columns()}
    inputs = {n: _keys(stored, found, given.column or n) for n, given in told.modalities.items()}
    labels = {n: _keys(stored, found, asked.column or n) for n, asked in told.heads.items()}
    ids = _keys(stored, found, told.id) if told.id else _first(free, ID_WORDS)
    groups = _keys(stored, found, told.group) if told.group else _first(free, GROUP_WORDS)
    labels = labels or _labels(stored, free)
    inputs = inputs or _inputs(stored, free)
    subgroups = {name: _keys(stored, found, name) for name in told.subgroups}
    roles = (*inputs.values(), *labels.values(), *subgroups.values(), ids, groups)
    used = {key for keys in roles for key in keys.values()}
    unused = [key for key in stored.keys if key not in used]
    said = (f"{stored.path.name}: arrays not used: {few(unused)}",) if unused else ()
    if not inputs or not labels:
        what = "inputs" if not inputs else "labels"
        raise UserError(
            f"{stored.path}: no array is called like {what} (there are {few(stored.keys)}); call them "
            f"test_images and test_labels, or name them in {FILE}, modalities: {{image: KEY}} and "
            "heads: {label: KEY}"
        )
    return Roles(inputs, labels, ids, groups, subgroups, said)


def split_and_stem(key: str) -> tuple[str, str]:
    """The split and the rest of an array's name: "x_test", "test_images", "X" (of the test split)."""
    for pattern in KEYS:
        match = pattern.fullmatch(key)
        if match:
            return SPLIT_WORDS[match["split"].lower()], match["name"].lower()
    return "test", key.lower()


def _keys(stored: Stored, found: Mapping[str, dict[str, str]], name: str) -> dict[str, str]:
    """The keys of an array that ``dataset.yaml`` names, without the split or with it."""
    keys = found.get(name.lower()) or found.get(split_and_stem(name)[1])
    if not keys:
        raise UserError(f"{stored.path}: {unknown('array', name, found)}")
    return keys


def _first(found: Mapping[str, dict[str, str]], words: Sequence[str]) -> dict[str, str]:
    return next((found[word] for word in words if word in found), {})


def _labels(stored: Stored, free: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """By head: "labels" is the head "label"; "y_lesion" or "lesion_labels" is the head "lesion"."""
    return _by_role(stored, free, LABEL_WORDS, lambda _: "label")


def _inputs(stored: Stored, free: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """By modality: "images" is the modality "image"; "x_mr" or "mr_images" is "mr"."""

    def usual(keys: dict[str, str]) -> str:
        return "table" if len(stored.shapes[next(iter(keys.values()))]) == 2 else "image"

    return _by_role(stored, free, INPUT_WORDS, usual)


def _by_role(
    stored: Stored,
    free: Mapping[str, dict[str, str]],
    words: Sequence[str],
    usual: Callable[[dict[str, str]], str],
) -> dict[str, dict[str, str]]:
    roles: dict[str, dict[str, str]] = {}
    for stem, keys in free.items():
        first, _, rest = stem.partition("_")
        before, _, last = stem.rpartition("_")
        name = usual(keys) if stem in words else rest if first in words else before if last in words else ""
        if name and roles.setdefault(name, keys) is not keys:
            one, other = (next(iter(each.values())) for each in (roles[name], keys))
            raise UserError(
                f"{stored.path}: {one!r} and {other!r} may both be the {name}; say in {FILE} which is meant "
                f"(modalities: {{{name}: KEY}} or heads: {{{name}: KEY}})"
            )
    return roles


@dataclass(frozen=True)
class ArraySource(DataSource):
    """Data that lies in arrays."""

    name: str
    stored: Stored
    roles: Roles
    description: Description

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that all inputs and labels have."""
        return self.roles.splits

    def load(self, split: str) -> Split:
        """Read the arrays of one split; heads are those of the labels of all splits.

        Raises:
            UserError: there is no such split; see ``split_of_arrays``.
        """
        told, roles = self.description, self.roles
        if split not in roles.splits:
            there = ", ".join(roles.splits) or "none that all inputs and labels have"
            raise UserError(f"{self.name} has no {split} split, only {there}; add arrays called {split}_…")
        said = [*roles.said, *(() if roles.groups else (NO_PATIENTS,))]
        try:
            taken = self._taken(split, said)
        except UserError as error:  # it says what to write in Python
            raise UserError(
                f"{self.name}: {error} (in {FILE}: modalities: {{NAME: {{kind: …, range: [LOW, HIGH], "
                "mean: …, std: …}}, heads: {NAME: {classes: [...]}})"
            ) from error
        wanted = {m.name: told.input(m.name) for m in taken.split.info.modalities}
        named = tuple(replace(m, title=wanted[m.name].title or m.name) for m in taken.split.info.modalities)
        lines = tuple(dict.fromkeys((*said, *taken.said)))
        info = info_of(self.name, told, named, taken.split.info.heads, lines)
        return replace(taken.split, info=info)

    def _taken(self, split: str, said: list[str]) -> Taken:
        roles = self.roles
        inputs = {name: self.stored.array(keys[split]) for name, keys in roles.inputs.items()}
        wanted = {name: self.description.input(name) for name in inputs}
        tables = [name for name, array in inputs.items() if array.ndim == 2 and wanted[name].kind is None]
        tables += [name for name in inputs if wanted[name].kind == "table"]
        trained = {name: roles.inputs[name]["train"] for name in tables if "train" in roles.inputs[name]}
        return split_of_arrays(
            self.name,
            inputs,
            {name: self.stored.array(keys[split]) for name, keys in roles.labels.items()},
            split=split,
            ids=self._texts(roles.ids, split),
            groups=self._texts(roles.groups, split),
            subgroups={name: self._texts(keys, split) or () for name, keys in roles.subgroups.items()},
            heads=self.heads(said),
            kinds={name: each.kind for name, each in wanted.items() if each.kind},
            ranges={name: (each.scale.low, each.scale.high) for name, each in wanted.items() if each.scale},
            mean={name: each.mean for name, each in wanted.items() if each.mean is not None},
            std={name: each.std for name, each in wanted.items() if each.std is not None},
            train={name: self.stored.array(key) for name, key in trained.items()} or None,
        )

    def heads(self, said: list[str]) -> tuple[Head, ...]:
        """The heads, from the labels of all splits together."""
        found = []
        for name, keys in self.roles.labels.items():
            parts = [self.stored.array(keys[split]) for split in self.roles.splits]
            shapes = {part.shape[1:] for part in parts}
            if len(shapes) > 1:
                raise UserError(
                    f"{self.name}: labels of {name} differ in shape between splits: {sorted(shapes)}"
                )
            asked = self.description.heads.get(name)
            classes = tuple(map(str, asked.classes)) if asked and asked.classes else None
            whole, inputs = np.concatenate(parts), tuple(self.roles.inputs)
            if asked and asked.kind and whole.ndim == 2:
                names = classes or tuple(map(str, range(whole.shape[1])))
                found.append(head_of_rows(name, whole, names, asked.kind, inputs, said)[0])
            else:
                found.append(head_of_labels(name, whole, inputs, said, classes)[0])
        return tuple(found)

    def _texts(self, keys: Mapping[str, str], split: str) -> Sequence[str] | None:
        if split not in keys:
            return None
        return [str(value) for value in self.stored.array(keys[split]).ravel().tolist()]
