"""What a folder of boards holds: records/RUN.json, and a SUITE-modalities.json a suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_med.studies.records import read_record
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, nearest, read_json


def published_records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records, by run.

    Raises:
        UserError: there is no such folder, or a record is damaged or of another schema.
    """
    records = given_path(folder) / "records"
    if not records.is_dir():
        raise UserError(
            f"{records} does not exist{nearest(records)}; give a folder of boards, as leaderboards"
        )
    return {path.stem: read_record(path) for path in sorted(records.glob("*.json"))}


def published_situations(folder: Path, suite: str) -> dict[str, dict[str, Any]]:
    """The tables of single modalities of a suite, by the run that attacks all of them.

    Raises:
        UserError: the file is damaged.
    """
    path = given_path(folder) / f"{suite}-modalities.json"
    found = read_json(path) if path.exists() else {"tables": []}
    tables = found.get("tables") if isinstance(found, dict) else None
    if not isinstance(tables, list) or not all(isinstance(t, dict) and "run" in t for t in tables):
        raise UserError(f"{path}: it must hold tables, each with its run")
    return {table["run"]: table for table in tables}
