"""A publisher's CSV tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_text

UNKNOWN = frozenset(
    ("", "-", "--", "?", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "none", "null", "unknown", "unk")
)


AGE_BANDS = ((30, "0-29"), (45, "30-44"), (60, "45-59"), (75, "60-74"))


def stated(value: str) -> str:
    """A cell's value, "" for every way in which tables say that it is not known."""
    stripped = value.strip()
    return "" if stripped.lower() in UNKNOWN else stripped


def age_band(age: str) -> str:
    """The band of an age in years given as text ("" when unknown; ValueError when no number)."""
    years = float(stated(age) or "nan")
    if not math.isfinite(years):
        return ""
    return next((band for limit, band in AGE_BANDS if years < limit), "75+")


def read_table(path: Path, columns: Sequence[str], whose: str) -> list[dict[str, str]]:
    """The rows of a CSV file with a header.

    Args:
        columns: those that must be there.
        whose: the data set, for the error.

    Raises:
        UserError: it is missing, empty, not text in UTF-8, lacks a column, or a row has other cells than
            the header.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; --from must name the folder that holds it")
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        rows = list(reader)
    except (UserError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a CSV table; download it again") from error
    if not rows:
        raise UserError(f"{path} has no rows; download it again")
    header = list(reader.fieldnames or ())
    for column in columns:
        if column not in header:
            raise UserError(f"{path.name}: the column {column!r} is missing; this is not {whose}'s table")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values() or len(set(header)) < len(header):
            raise UserError(f"{path.name}: row {number} does not fit the header; download it again")
    return rows
