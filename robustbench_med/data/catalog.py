"""Data sets by name, installed plug-ins included."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from robustbench_med.api.data import SPLITS, DataSource, ImportReport, Split
from robustbench_med.api.registry import Registry
from robustbench_med.data.added import Added, add, added_names, is_added
from robustbench_med.data.given import given_source, is_given, last_part, require_path
from robustbench_med.data.joined import JOINED_BY, Joined
from robustbench_med.data.published import PublishedSource, published_names
from robustbench_med.data.store import dataset_folder
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.files import given_path

SOURCES: Registry[type[DataSource]] = Registry("data set", "robustbench_med.datasets")


def registered() -> list[str]:
    """Every data set that has a name without being added: installed ones, and public ones by description."""
    return sorted({*SOURCES.entries(), *published_names()})


def load_dataset(name: str, split: str = "test") -> Split:
    """Load one split of a data set.

    Args:
        name: of ``robmed list datasets``, or a path to somebody's own data (docs/data.md); two of them with
            " + " between are joined by index.

    Raises:
        UserError: unknown name or split, data not imported yet, or data that is damaged.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    return source(name).load(split).validate()


def source(name: str) -> DataSource:
    """Where a data set comes from; see ``load_dataset``.

    Raises:
        UserError: there is none of this name, or nothing that can be read at this path.
    """
    if name in registered():
        return _registered(name)
    first, plus, second = name.partition(JOINED_BY)
    if plus and not given_path(name).exists():
        return Joined(source(first), source(second))
    if is_added(name):
        return Added(name)
    require_dataset(name)
    return given_source(name)


def _registered(name: str) -> DataSource:
    """The source of a name of ``registered``."""
    if name not in SOURCES.entries() and name in published_names():
        return PublishedSource(name)
    return SOURCES.get(name)()


def require_dataset(name: str) -> None:
    """Make sure that a name may be a data set, whether or not its data is at hand.

    Raises:
        UserError: neither a name nor a path.
    """
    for part in _unknown_parts(name):
        if not is_given(part):
            raise unknown(SOURCES.kind, part, [*registered(), *added_names()])


def source_modules(name: str) -> tuple[str, ...]:
    """The modules of the registered sources behind a data set; paths are read by what this one imports."""
    modules = dict.fromkeys(published_names(), PublishedSource.__module__)
    modules |= {each: entry.module for each, entry in SOURCES.entries().items()}
    parts = [name] if name in modules else name.split(JOINED_BY)
    return tuple(modules[part] for part in parts if part in modules)


def require_at_hand(name: str) -> None:
    """``require_dataset``, and whatever is a path must be there.

    Raises:
        UserError: it is not.
    """
    require_dataset(name)
    for part in _unknown_parts(name):
        require_path(part)


def _unknown_parts(name: str) -> list[str]:
    """What of a data set's name, or of both of two that are joined, is no known name: paths, perhaps."""
    known = {*registered(), *added_names()}
    parts = [name] if name in known or given_path(name).exists() else name.split(JOINED_BY)
    return [part for part in parts if part not in known]


def short_name(name: str) -> str:
    """What a data set is called in names of files: itself, or of a path its last part."""
    if name in registered() or is_added(name):
        return name
    parts = [last_part(part) if is_given(part) else part for part in name.split(JOINED_BY)]
    return "+".join(parts)


def is_own(name: str) -> bool:
    """Whether a data set is somebody's own, by a path or added: what is said of it was guessed."""
    return name not in registered()


def is_imported(name: str) -> bool:
    """Whether there is a local copy, sound or not."""
    try:
        return (dataset_folder(name) / "dataset.json").is_file()
    except UserError:  # who has no home has imported nothing
        return False


def add_dataset(name: str, given: str) -> ImportReport:
    """Keep a copy of somebody's own data under a name that ``load_dataset`` then finds.

    Args:
        given: see ``load_dataset``.

    Raises:
        UserError: the name is taken or cannot be used, or the data cannot be read.
    """
    return add(name, source(given), taken=name in registered())


def import_dataset(name: str, source: Path, /, **options: Any) -> ImportReport:
    """Read a publisher's download into the compact local copy.

    Raises:
        UserError: unknown name or option, an unreadable folder, or a layout that is not the publisher's.
    """
    if name not in registered():
        raise unknown(SOURCES.kind, name, registered())
    importer = _registered(name)
    folder = given_path(source)
    try:
        inspect.signature(type(importer).import_from).bind(importer, folder, **options)
    except TypeError as error:  # what it raises once it runs is a bug, and keeps its traceback
        raise UserError(f"data import {name}: {error}; take that --option away") from error
    try:
        return importer.import_from(folder, **options)
    except OSError as error:  # of whatever file it was: nothing is wrong with the program
        raise UserError(
            f"cannot read {str(error.filename or folder)[:200]}: {error.strerror or error}; see to its "
            "permissions, or download it again"
        ) from error
