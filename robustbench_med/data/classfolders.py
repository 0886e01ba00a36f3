"""A folder for each class, with or without train, val and test above them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robustbench_med.api.heads import SingleLabel
from robustbench_med.data.decoding import UnusableImageError
from robustbench_med.data.described import FILE, Description
from robustbench_med.data.files import is_picture
from robustbench_med.data.folders import is_junk, printable
from robustbench_med.data.listing import Listing, split_word
from robustbench_med.data.medical import is_medical, is_nifti, patient_of
from robustbench_med.data.notes import Note, few, summary
from robustbench_med.util.errors import UserError

MODALITY, HEAD, BY_FOLDER = "image", "label", "folder"


def has_classes(folder: Path) -> bool:
    """Whether a folder looks like class folders: two or more of them with images, or splits of such."""
    found = _subfolders(unwrapped(folder))
    if found and all(split_word(each.name) for each in found):
        return any(_subfolders(each) for each in found)
    return sum(any(map(is_picture, _files(each))) for each in found) > 1


def list_classes(folder: Path, told: Description) -> Listing:
    """The images below the class folders of ``folder``.

    Raises:
        UserError: no images, one class only, or folders that may be classes or splits.
    """
    root = unwrapped(folder)
    said = [] if root == folder else [f"the folder {printable(root.name)} within it was taken"]
    found: list[tuple[str, str, Path]] = []
    notes: list[Note] = []
    for split, place in _splits(root).items():
        loose = [path for path in _plain_files(place) if is_picture(path)]
        notes += [Note(_name(path, root), "image outside the class folders, not read") for path in loose]
        for each in _subfolders(place):
            pictures, others = _pictures(each)
            found += [(split, each.name, path) for path in pictures]
            notes += [Note(_name(path, root), "no image by its suffix, not read") for path in others]
    modality, head = _names(told)
    classes = _classes(folder, told, head, sorted({name for _, name, _ in found}))
    said += list(summary("files", notes))
    known = [each for each in found if each[1] in classes]
    if len(known) < len(found):
        said.append(f"{len(found) - len(known)} files of classes that {FILE} does not name were left out")
    groups, how = _groups(root, told, [path for _, _, path in known], [name for _, name, _ in known])
    if "test" not in {split for split, _, _ in known}:
        said.append("there is no test split")
    return Listing(
        splits=tuple(split for split, _, _ in known),
        ids=tuple(_name(path, root) for _, _, path in known),
        groups=groups,
        files={modality: tuple(path for _, _, path in known)},
        tables={},
        heads=(SingleLabel(head, classes=tuple(classes), modalities=(modality,)),),
        labels={head: np.array([classes.index(name) for _, name, _ in known], np.int64)},
        said=(*said, *how),
        groups_known=told.group is not None or bool(how),
    )


def unwrapped(folder: Path) -> Path:
    """The folder itself, or the only one within it, as unpacking leaves them (set/set/class)."""
    while True:
        inner = _subfolders(folder)
        alone = len(inner) == 1 and not split_word(inner[0].name) and len(_subfolders(inner[0])) > 1
        if not alone or any(map(is_picture, _plain_files(folder))):
            return folder
        folder = inner[0]


def _splits(root: Path) -> dict[str, Path]:
    """The folder of classes of each split; all of it is the test split when there are none."""
    inner = _subfolders(root)
    named = {each: split_word(each.name) for each in inner}
    if not any(named.values()):
        return {"test": root}
    other = [printable(each.name) for each, split in named.items() if split is None]
    if other:
        first = next(printable(each.name) for each, split in named.items() if split)
        raise UserError(
            f"{root} has the split {first} and also {few(other)}: classes or splits? Move one away"
        )
    places: dict[str, Path] = {}
    for each, split in named.items():
        if places.setdefault(str(split), each) != each:
            raise UserError(
                f"{root} has two folders of the {split} split, {places[str(split)].name} and {each.name}"
            )
    return places


def _names(told: Description) -> tuple[str, str]:
    """What the modality and the head are called."""
    for what, given in (("modalities", told.modalities), ("heads", told.heads)):
        if len(given) > 1:
            raise UserError(
                f"{FILE}: class folders have one modality and one head; {what} names {len(given)}"
            )
    return next(iter(told.modalities), MODALITY), next(iter(told.heads), HEAD)


def _classes(folder: Path, told: Description, head: str, found: list[str]) -> list[str]:
    """The classes in label order.

    Raises:
        UserError: fewer than two.
    """
    chosen = [str(name) for name in told.heads[head].classes] if head in told.heads else []
    absent = [name for name in chosen if name not in found]
    if absent:
        raise UserError(
            f"{folder} has no folder of the class {absent[0]!r}; there are {few(found) or 'none'}"
        )
    classes = chosen or found
    if not classes:
        raise UserError(f"{folder} holds no class folders with images, no CSV, npz or npy; see docs/data.md")
    if len(classes) < 2:
        raise UserError(
            f"{folder} has images of one class only, {classes[0]!r}; give a folder for each class"
        )
    return classes


def _groups(
    root: Path, told: Description, paths: list[Path], classes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The patient of each file, and how it is known; without that its own name."""
    if told.group is not None:
        if told.group != BY_FOLDER:
            raise UserError(f"{FILE}: group of class folders is {told.group!r}; only folder is possible")
        odd = next((p for p, name in zip(paths, classes, strict=True) if p.parent.name == name), None)
        if odd is not None:
            raise UserError(f"{FILE}: group is folder, but {_name(odd, root)} lies in no patient's folder")
        return tuple(printable(path.parent.name) for path in paths), ()
    scans = [path for path in paths if is_medical(path) and not is_nifti(path)]
    if scans and len(scans) == len(paths):
        patients = tuple(map(_patient, scans))
        if all(patients):
            return patients, (
                f"groups: {len(set(patients))} patients by their ids in the DICOM files (hashed)",
            )
    return tuple(_name(path, root) for path in paths), ()


def _patient(path: Path) -> str:
    try:
        return patient_of(path)
    except UnusableImageError:  # which is said when the file is read
        return ""


def _pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images anywhere below a folder, and files that are none."""
    files = _files(folder)
    looked = [(path, is_picture(path)) for path in files]
    return [path for path, yes in looked if yes], [path for path, yes in looked if not yes]


def _files(folder: Path) -> list[Path]:
    """All files below a folder but those that tools leave behind."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(map(is_junk, path.relative_to(folder).parts))
    ]


def _plain_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not is_junk(path.name)]


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_junk(path.name)]


def _name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())
