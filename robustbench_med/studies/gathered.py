"""What lies at paths that were given: records, rows, curves, tables of modalities, pictures."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.record import require_record
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import nearest, read_json

RUN_NAME = re.compile(r"[0-9A-Za-z][\w.-]{0,63}", re.ASCII)  # a name of files, and in links
Record = Mapping[str, Any]


@dataclass
class Found:
    """What lies at the paths that were given.

    Attributes:
        records: by run.
        files: by run its record's file, or the CSV of its row.
        rows: by run, of CSVs.
        curves, tables: contents of curve.json and modalities.json, by path.
        pictures: by run.
        passed: JSON files that hold something else.
    """

    records: dict[str, Record] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, Mapping[str, str]] = field(default_factory=dict)
    curves: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    tables: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    pictures: dict[str, Path] = field(default_factory=dict)
    passed: int = 0


def gather(paths: Sequence[Path]) -> Found:
    """Everything a board can show at some paths.

    Raises:
        UserError: one that is not there, is of no kind that is known, or is damaged.
    """
    found = Found()
    loose = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist{nearest(path)}")
        if path.is_dir():
            for file in _json_files(path):
                _take(file, found, named=False)
        elif path.suffix.lower() == ".csv":
            _take_csv(path, found)
        elif path.suffix.lower() == ".png":
            loose.append(path)
        else:
            _take(path, found, named=True)
    for path in loose:
        if path.stem not in found.records:
            raise UserError(
                f"{path}: a picture is called after its run, such as {next(iter(found.records), 'RUN')}.png"
            )
        found.pictures[path.stem] = path
    return found


def _json_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(".json") and not name.startswith("."):
                yield Path(place) / name


def _take(file: Path, found: Found, named: bool) -> None:
    """Sort a JSON file in by what it holds.

    Args:
        named: by the user, and so to be something that is known.
    """
    value = read_json(file)
    keys = set(value) if isinstance(value, dict) else set()
    if {"radii", "runs", "accuracy", "headline"} <= keys:
        found.curves[file] = value
    elif {"rows", "leakage", "title"} <= keys:
        found.tables[file] = value
    elif named or ({"run", "schema"} <= keys and "certificate" not in keys):
        _take_record(file, require_record(value, str(file)), found)
    else:
        found.passed += 1


def _take_record(file: Path, record: Record, found: Found) -> None:
    run = record["run"]
    if not RUN_NAME.fullmatch(run):
        raise UserError(
            f"{file}: the run is called {run[:40]!r}; use letters, digits and . _ - only, up to 64"
        )
    before = found.records.get(run)
    if before is not None and before["audit"].get("complete") and not record["audit"].get("complete"):
        return
    found.records[run], found.files[run] = record, file
    beside = file.with_name("picture.png") if file.name == "record.json" else file.with_suffix(".png")
    if beside.is_file():
        found.pictures[run] = beside


def _take_csv(path: Path, found: Found) -> None:
    """Rows, and the records that lie beside them."""
    for row in leaderboard.read(path):
        found.rows[row["run"]] = row
        found.files.setdefault(row["run"], path)
        file = path.parent / "records" / f"{row['run']}.json"
        if RUN_NAME.fullmatch(row["run"]) and file.is_file():
            _take(file, found, named=True)
