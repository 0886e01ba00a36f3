"""Images in class folders: which files are read, and a note on every other one that may have been meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robustbench_med.data.decoding import IMAGE_SUFFIXES
from robustbench_med.data.notes import Note
from robustbench_med.util.errors import UserError

# What file managers, packers and network drives leave behind.
JUNK = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "ehthumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Collection:
    """One set of labelled single images as found on disk.

    Attributes:
        files: per name (path below the set's folder, with "/") the file; the names' order is the
            order in which one of several copies is preferred.
        labels: per name the class.
        folders: per name the publisher's folder it lies in.
        notes: what was found but not read.
    """

    files: Mapping[str, Path]
    labels: Mapping[str, str]
    folders: Mapping[str, str]
    notes: tuple[Note, ...]


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, or left behind by some tool."""
    return name.startswith(".") or name.lower() in JUNK


def printable(name: str) -> str:
    r"""A file name in which everything can be printed: bytes that are not UTF-8 and control characters
    as escapes ("gliom\xe9.jpg").
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def find_images(root: Path, classes: Mapping[str, str]) -> Collection:
    """The images directly in class folders.

    Args:
        classes: per folder below ``root`` the class name.

    Raises:
        UserError: a class folder is missing, or two names cannot be told apart once they are printable.
    """
    files: dict[str, Path] = {}
    labels, folders = {}, {}
    for folder, label in classes.items():
        if not (root / folder).is_dir():
            raise UserError(f"the folder {root / folder} is missing; download the set again")
        for path in sorted((root / folder).iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES or is_junk(path.name) or not path.is_file():
                continue
            name = f"{folder}/{printable(path.name)}"
            if name in files:
                raise UserError(f"two files of {root / folder} are called {name}; rename one")
            files[name], labels[name], folders[name] = path, label, folder
    return Collection(files, labels, folders, _notes(root, classes))


def _notes(root: Path, classes: Mapping[str, str]) -> tuple[Note, ...]:
    """A note on every file below ``root`` that is not read, unless it is a tool's own."""
    notes = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        what = None if path.is_dir() else _why_not(path, relative, classes)
        if what:
            notes.append(Note(printable(relative.as_posix()), what))
    return tuple(notes)


def _why_not(path: Path, relative: Path, classes: Mapping[str, str]) -> str | None:
    """Why a file is not read; None when it is, or when nobody can have meant it."""
    parent, suffix = relative.parent.as_posix(), path.suffix.lower()
    image = suffix in IMAGE_SUFFIXES
    if any(map(is_junk, relative.parent.parts)):
        return f"image in the hidden folder {printable(parent)}" if image else None
    if is_junk(path.name):
        return None
    if parent in classes:
        if not path.is_file():
            return "no file (a link to nowhere, or a device)"
        return None if image else f"no image by its suffix ({printable(suffix) or 'none'})"
    if any(parent.startswith(f"{folder}/") for folder in classes):
        return "in a folder within a class folder, which is not read"
    return "image outside the class folders" if image else None
