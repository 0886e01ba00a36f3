"""Make everything published in this folder: python leaderboards/publish.py [RUNS].

Runs what of the suite ``robust-mail`` has no record in ``records/`` yet (all of it takes hours on two cores;
finished runs under RUNS are read back), adds the new records there, and writes a CSV a data set from all
of them and the suite's table and figure. To make a row again, delete its record first.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from robustbench_med.reporting.leaderboard import COLUMNS, row
from robustbench_med.studies.suite import Suite, run_suite
from robustbench_med.util.files import read_json, replacing, write_json

HERE = Path(__file__).parent
SUITE = "robust-mail"


def main() -> None:
    """See the module."""
    runs = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/published")
    suite = Suite.from_yaml(SUITE)
    result = run_suite(suite, runs, announce=print, published=HERE / "records")
    for record in result.records.values():
        write_json(HERE / "records" / f"{record['run']}.json", record)
    for name in (result.table, result.figure):
        shutil.copyfile(name, HERE / f"{SUITE}{name.suffix}")
    write_boards(suite)


def write_boards(suite: Suite) -> None:
    """A CSV a data set from the records, in the suite's order of models."""
    records = [read_json(path) for path in (HERE / "records").glob("*.json")]
    for dataset in suite.datasets:
        here = [record for record in records if record["dataset"]["name"] == dataset]
        found = sorted(here, key=lambda record: _order(record, suite))
        with replacing(HERE / f"{dataset}.csv") as temporary:
            rows = [row(record) for record in found]
            pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")
        print(f"{dataset}.csv: {len(found)} rows")


def _order(record: dict[str, Any], suite: Suite) -> tuple[int, int]:
    return suite.models.index(record["model"]["name"]), record["cost"]["forward_passes"]


if __name__ == "__main__":
    main()
