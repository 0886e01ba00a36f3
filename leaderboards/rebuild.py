"""Write the CSVs anew from the records: python leaderboards/rebuild.py.

For when the columns change: a row says nothing that its record does not. Rows stay in their order.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from robustbench_med.files import read_json, replacing
from robustbench_med.reporting.leaderboard import COLUMNS, row

HERE = Path(__file__).parent


def main() -> None:
    """Every CSV beside this file."""
    for board in sorted(HERE.glob("*.csv")):
        runs = pd.read_csv(board, dtype=str)["run"]
        rows = [row(read_json(HERE / "records" / f"{run}.json")) for run in runs]
        with replacing(board) as temporary:
            pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")
        print(f"{board}: {len(rows)} rows")


if __name__ == "__main__":
    main()
