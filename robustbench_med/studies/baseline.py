"""The committed baseline of a gate: a folder of records, or one record."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_med.studies.records import read_record
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, replacing_folder, write_json

BESIDE = re.compile(r"README.*|\.git(ignore|attributes|keep)|.*\.json", re.IGNORECASE)
"""What else may lie in the folder, and is kept."""


def read_baseline(path: Path) -> list[dict[str, Any]]:
    """The records at a path: of a run's folder, a file, or a folder of either, by rising name.

    Raises:
        UserError: there are none, or one is damaged.
    """
    path = given_path(path)
    if not path.is_dir() or (path / "record.json").exists():
        return [read_record(path)]
    files = sorted(path.glob("*.json")) or sorted(path.glob("*/record.json"))
    if not files:
        said = "give the folder of a run, its record.json, or a folder of them"
        raise UserError(f"{path} holds no records; {said}")
    return [read_record(file) for file in files]


def require_place(path: Path, single: bool) -> None:
    """Make sure that a baseline can be put there: everything else in its folder would be lost.

    Raises:
        UserError: something else is there.
    """
    if single:
        if path.is_dir():
            raise UserError(f"the baseline {path} is a folder; give it a name that does not end in .json")
        return
    if path.exists() and not path.is_dir():
        raise UserError(f"the baseline {path} is a file; name a folder, or a file that ends in .json")
    odd = next((e.name for e in _held(path) if e.is_dir() or not BESIDE.fullmatch(e.name)), None)
    if odd is not None:
        raise UserError(f"the baseline {path} holds other things ({odd}); name a folder of its own")


def write_baseline(path: Path, named: Mapping[str, Sequence[Mapping[str, Any]]], single: bool) -> None:
    """Put records in the place of the baseline, all or none.

    Args:
        named: by what an attack is called, one an attack seed.

    Raises:
        UserError: see ``require_place``; the disk is full or not writable.
    """
    require_place(path, single)
    if single:
        write_json(path, next(iter(named.values()))[0])
        return
    folder = path.resolve()
    with replacing_folder(folder) as building:
        for kept in (e for e in _held(folder) if not e.name.lower().endswith(".json")):
            shutil.copy2(kept, building / kept.name)
        for name, record in ((n, r) for n, records in named.items() for r in records):
            write_json(building / file_name(name, record, named), record)


def file_name(name: str, record: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """The file of a record; names that differ in signs alone are told apart by their place."""
    plain = [_plain(each) for each in names]
    place = list(names).index(name)
    apart = f"-{place + 1}" if plain.count(plain[place]) > 1 else ""
    return f"{plain[place]}{apart}-seed{record['seed']}.json"


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip("-.")[:80] or "attack"


def _held(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
