"""Make everything published in this folder: python leaderboards/publish.py [RUNS] [--again].

Runs what of the suite ``robust-mail`` has no record in ``records/`` yet (all of it takes hours on two cores;
finished runs under RUNS are read back), adds the new records there, and writes a CSV a data set from all
of them and the suite's table and figure. To make a row again, delete its record first; with --again all that
other code made are made anew. Nothing is written when a run failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_med.evaluation.identity import subject_key
from robustbench_med.reporting.leaderboard import row, write
from robustbench_med.studies.records import read_record
from robustbench_med.studies.suite import Suite, run_suite
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import write_json

HERE = Path(__file__).parent
SUITE = "robust-mail"


def main() -> int:
    """See the module; 1 when a run failed, 2 for what a person must mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs/published"))
    parser.add_argument("--again", action="store_true", help="make what other code made anew")
    options = parser.parse_args()
    try:
        return publish(options.runs, options.again)
    except UserError as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2


def publish(runs: Path, again: bool) -> int:
    """Run what is missing and write everything; 1, and nothing written, when a run failed."""
    suite = Suite.from_yaml(SUITE)
    result = run_suite(suite, runs, announce=print, published=published(), again=again)
    if result.failed:
        return 1
    for record in result.records.values():
        add(record)
    for made in (result.table, result.figure):
        shutil.copyfile(made, HERE / f"{SUITE}{made.suffix}")
    write_boards(suite)
    return 0


def published() -> dict[str, dict[str, Any]]:
    """The records, by run."""
    return {path.stem: read_record(path) for path in sorted((HERE / "records").glob("*.json"))}


def add(record: Mapping[str, Any]) -> None:
    """Write a record in the place of what it makes anew."""
    for run, old in published().items():
        if run != record["run"] and subject_key(old) == subject_key(record):
            (HERE / "records" / f"{run}.json").unlink()
    write_json(HERE / "records" / f"{record['run']}.json", record)


def write_boards(suite: Suite) -> None:
    """A CSV a data set from the records, in the suite's order of models."""
    for dataset in suite.datasets:
        here = [record for record in published().values() if record["dataset"]["name"] == dataset]
        found = sorted(here, key=lambda record: _order(record, suite))
        write(HERE / f"{dataset}.csv", [row(record) for record in found])
        print(f"{dataset}.csv: {len(found)} rows")


def _order(record: Mapping[str, Any], suite: Suite) -> tuple[int, int]:
    return suite.models.index(record["model"]["name"]), record["cost"]["forward_passes"]


if __name__ == "__main__":
    raise SystemExit(main())
