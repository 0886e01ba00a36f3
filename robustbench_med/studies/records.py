"""Finished runs on disk: their folders, their records, and the id of a run that is yet to be made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustbench_med.data.catalog import short_name
from robustbench_med.reporting import leaderboard
from robustbench_med.reporting.record import require_record
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, locked, read_json, require_writable


def folder_name(label: str, what: str, dataset: str, run_id: str) -> str:
    """The folder of a run, without what file systems and shells trip over, and short enough for them.

    Args:
        label: the model's.
        what: was done with it.
    """
    model, attack, data = (
        _plain(part, most) for part, most in ((label, 100), (what, 50), (short_name(dataset), 50))
    )
    return f"{model}-{attack}-{data}-{run_id}"


def _plain(text: str, most: int) -> str:
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-")[:most]


@contextmanager
def run_folder(out: Path, board: Path, columns: Sequence[str], name: str) -> Iterator[Path]:
    """The folder of a run, to which no equal run has access meanwhile: they would share their parts.

    Raises:
        UserError: what is to be written at the end could not be: it is said before the work, not after.
    """
    leaderboard.check_header(board, columns)
    for folder in (out, board.parent):
        require_writable(folder)
    with locked(out / name):
        yield out / name


def read_record(path: Path) -> dict[str, Any]:
    """The record of a run, by its folder or by the file.

    Raises:
        UserError: there is none, or it is damaged or of another schema.
    """
    file = record_file(path)
    return require_record(read_json(file), str(file))


def record_file(path: Path) -> Path:
    """The record itself, by the folder of a run or by the file.

    Raises:
        UserError: there is no such folder or file.
    """
    path = given_path(path)
    file = path / "record.json" if path.is_dir() else path
    if not file.exists() and not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run, or its record.json")
    return file
