"""Tables of rows in a CSV that is made bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from robustbench_med.util.files import write_text


def put_rows(path: Path, rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Write rows into a CSV, each in the place of one that is about the same; the others stay as they are.

    Args:
        by: the columns that say what a row is about.

    Returns:
        All rows that the file has now.
    """
    both = pd.concat([pd.read_csv(path), rows]) if path.exists() else rows
    if not both.empty:
        latest = both.drop_duplicates(list(by), keep="last")
        both = both[list(by)].drop_duplicates().merge(latest, on=list(by))[both.columns]
    write_text(path, both.to_csv(index=False, lineterminator="\n"))
    return both
