"""Somebody's own data by its path: a folder of classes, a CSV, an npz, npy files, or a ``dataset.yaml``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from robustbench_med.data.classfolders import BY_FOLDER, has_classes, list_classes
from robustbench_med.data.described import FILE, Description, described
from robustbench_med.data.folders import is_junk
from robustbench_med.data.listing import ListedSource
from robustbench_med.data.notes import few
from robustbench_med.data.npz import ArraySource, roles_of, stored_arrays
from robustbench_med.data.sheet import list_sheet
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, nearest

SUFFIXES = (".csv", ".tsv", ".npz", ".npy", ".yaml", ".yml")


def is_given(name: str) -> bool:
    """Whether a data set's name is a path: it has a separator or a suffix of data, or something is there."""
    separators = [each for each in (os.sep, os.altsep) if each]
    if any(each in name for each in separators) or name.lower().endswith(SUFFIXES) or name.startswith("~"):
        return True
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):  # too long for a path, or a null character
        return False


def require_path(text: str) -> None:
    """Make sure that something is there.

    Raises:
        UserError: nothing is.
    """
    path = given_path(text)
    if not path.exists():
        raise UserError(
            f"there is no file or folder {text}"
            + (nearest(path) or "; give the path of your data, or a name of robmed list datasets")
        )


def given_source(text: str) -> ListedSource | ArraySource:
    """The data at a path.

    Raises:
        UserError: nothing is there, or it is not plain what it is; see docs/data.md.
    """
    require_path(text)
    path = given_path(text)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _opened(path.parent, described(path), path)
    if path.is_dir():
        told = path / FILE
        return _opened(path, described(told) if told.is_file() else Description(), told)
    told = path.parent / FILE
    said = described(told) if told.is_file() else Description()
    if said.file is not None and (path.parent / said.file).resolve() != path.resolve():
        said = Description()  # it speaks of another file
    return _opened(path.parent, replace(said, file=path.name), path)


def last_part(text: str) -> str:
    """What data at a path is called where no ``dataset.yaml`` names it: the last part without its suffix."""
    path = given_path(text).absolute()
    own = path.parent if path.name == FILE else path
    return own.name if own.is_dir() else own.stem


def _opened(folder: Path, told: Description, source: Path) -> ListedSource | ArraySource:
    """The data of a folder, as a description or the folder itself says."""
    data = folder / told.file if told.file else _only_one(folder, told)
    if not data.exists():
        raise UserError(f"{source}: there is no {told.file!r} beside it; mend file:")
    name = told.name or last_part(str(data if told.file and data.is_file() else folder))
    suffix = data.suffix.lower()
    if data.is_dir() and _npy(data) and not has_classes(data):
        suffix = ".npy"
    if suffix in (".csv", ".tsv"):
        return ListedSource(name, list_sheet(data, told), told)
    if suffix in (".npz", ".npy"):
        stored = stored_arrays(data if suffix == ".npz" or data.is_dir() else data.parent)
        return ArraySource(name, stored, roles_of(stored, told), told)
    if data.is_dir():
        return ListedSource(name, list_classes(data, told), told)
    raise UserError(
        f"{data} is of no kind that is read; give a folder with a folder for each class, a CSV, an npz, npy "
        f"files, or a {FILE}"
    )


def _only_one(folder: Path, told: Description) -> Path:
    """What of a folder is its data: class folders, or the only table or archive in it.

    Raises:
        UserError: there are several.
    """
    names = [each for each in sorted(folder.iterdir()) if each.is_file() and not is_junk(each.name)]
    files = [each for each in names if each.suffix.lower() in (".csv", ".tsv", ".npz")]
    found = [*files, *([folder] if _npy(folder) else [])]
    columns = told.columns() - {BY_FOLDER}
    # Folders of images look like classes; a description that names columns speaks of a table.
    if not (columns and found) and has_classes(folder):
        found.append(folder)
    if len(found) > 1:
        shown = few([each.name if each.is_file() else "class folders or npy files" for each in found])
        raise UserError(
            f"{folder} holds several things ({shown}); give one's own path, or write file: NAME in {FILE}"
        )
    return found[0] if found else folder


def _npy(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))
