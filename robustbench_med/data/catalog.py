"""Data sets by name, installed plug-ins included."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from robustbench_med.api.data import SPLITS, DataSource, ImportReport, Split
from robustbench_med.api.registry import Registry
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path

SOURCES: Registry[type[DataSource]] = Registry("data set", "robustbench_med.datasets")


def load_dataset(name: str, split: str = "test") -> Split:
    """Load one split of a data set.

    Raises:
        UserError: unknown name or split, data not imported yet, or data that is damaged.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    return SOURCES.get(name)().load(split).validate()


def import_dataset(name: str, source: Path, /, **options: Any) -> ImportReport:
    """Read a publisher's download into the compact local copy.

    Raises:
        UserError: unknown name or option, an unreadable folder, or a layout that is not the publisher's.
    """
    importer = SOURCES.get(name)()
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
