"""Print the README's table from the published CSVs: python leaderboards/table.py."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

DATASETS = ("phantom", "milk10k", "mri-ct")


def main() -> None:
    """A Markdown row per data set and model; "any head" accuracies in per cent."""
    print("| data | model | clean | released attack | PGD-50, EOT-10 if random | samples |")
    print("|---|---|---|---|---|---|")
    for dataset in DATASETS:
        path = Path(__file__).parent / f"{dataset}.csv"
        if path.exists():
            print_rows(pd.read_csv(path))


def print_rows(board: pd.DataFrame) -> None:
    """One line per model, in the order of the CSV."""
    for model, rows in board.groupby("model", sort=False):
        released = rows[rows["attack"].str.contains("steps=10;.*keep=last")]
        strong = rows[rows["attack"].str.contains("steps=50;.*keep=best")]
        if len(released) > 1 or len(strong) > 1:
            raise SystemExit(f"{model}: more than one row of a protocol; keep the one to publish")
        counts = sorted({int(n) for n in rows["samples"]})
        cells = [
            str(rows["dataset"].iloc[0]),
            f"`{model}`",
            cell(strong if len(strong) else released, "clean"),
            cell(released, "robust"),
            cell(strong, "robust"),
            " / ".join(map(str, counts)),
        ]
        print(f"| {' | '.join(cells)} |")


def cell(row: pd.DataFrame, kind: str) -> str:
    """A share with its interval, "-" where there is no run."""
    if row.empty:
        return "-"
    value, low, high = (100 * float(row[f"{kind}{end}"].iloc[0]) for end in ("", "_low", "_high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
