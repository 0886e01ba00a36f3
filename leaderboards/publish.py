"""Make everything published in this folder: python leaderboards/publish.py [RUNS] [--suite NAME] [--again].

Runs what of a suite (``robust-mail``, ``zoo``, ``wide``) has no record in ``records/`` yet (all of it takes
hours on two cores; finished runs under RUNS are read back), adds the new records there, and writes a CSV a
data set from all of them and the suite's table and figure. To make a row again, delete its record first; with
--again all that other code made are made anew. --plan says what would be made, --workers shares it out.
Nothing is written when a run failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from robustbench_med.evaluation.identity import subject_key
from robustbench_med.evaluation.workers import Workers
from robustbench_med.reporting.columns import schema
from robustbench_med.reporting.forecast import show
from robustbench_med.reporting.leaderboard import row, write
from robustbench_med.studies.forecast import forecast_suite
from robustbench_med.studies.published import published_records, published_situations
from robustbench_med.studies.suite import Making, Suite, run_suite
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import write_json

HERE = Path(__file__).parent
SUITES = ("robust-mail", "zoo", "wide")


def main() -> int:
    """See the module; 1 when a run failed, 2 for what a person must mend."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs/published"))
    parser.add_argument("--suite", choices=SUITES, default=SUITES[0])
    parser.add_argument("--again", action="store_true", help="make what other code made anew")
    parser.add_argument("--workers", type=int, default=0, help="share the work among so many processes")
    parser.add_argument(
        "--plan", action="store_true", help="say what is missing and what it costs; make nothing"
    )
    options = parser.parse_args()
    try:
        workers = Workers(options.workers)
        if options.plan:
            return plan(options.suite, options.runs, options.again, workers)
        return publish(options.suite, options.runs, options.again, workers)
    except UserError as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2


def plan(name: str, runs: Path, again: bool, workers: Workers) -> int:
    """Print what ``publish`` would make."""
    found = forecast_suite(Suite.from_yaml(name), making(name, runs, again))
    show(found.runs, found.seconds, found.memory, found.left_out, workers.count, Console())
    return 0


def publish(name: str, runs: Path, again: bool, workers: Workers) -> int:
    """Run what is missing and write everything; 1, and nothing written, when a run failed.

    Raises:
        UserError: what has published rows is not at hand; the table would lose them.
    """
    suite = Suite.from_yaml(name)
    result = run_suite(suite, replace(making(name, runs, again), announce=print, workers=workers))
    if result.failed:
        return 1
    require_published(name, result.left_out)
    for record in result.records.values():
        add(record)
    if result.situations:
        write_json(HERE / f"{name}-modalities.json", {"tables": list(result.situations.values())})
    for made in (result.table, result.figure):
        shutil.copyfile(made, HERE / f"{name}{made.suffix}")
    write_boards()
    return 0


def require_published(name: str, left_out: Sequence[str]) -> None:
    """Make sure that no row of the published table is left out for want of its data or weights.

    Raises:
        UserError: one is.
    """
    path = HERE / f"{name}.md"
    table = path.read_text(encoding="utf-8") if path.exists() else ""
    for record in published_records(HERE).values():
        net, dataset = record["model"], record["dataset"]["name"]
        about = f"{dataset}: ", f"{net['name']} on {dataset}: "
        reason = next((line for line in left_out if line.startswith(about)), None)
        if reason is not None and f"| `{net['label']}` |" in table:
            raise UserError(f"{path} would lose `{net['label']}` ({reason}); nothing was written")


def making(name: str, runs: Path, again: bool) -> Making:
    """How a suite is made beside what is published of it."""
    known = published_situations(HERE, name)
    return Making(runs, published=published_records(HERE), again=again, situations=known)


def add(record: Mapping[str, Any]) -> None:
    """Write a record in the place of what it makes anew."""
    for run, old in published_records(HERE).items():
        if run != record["run"] and subject_key(old) == subject_key(record):
            (HERE / "records" / f"{run}.json").unlink()
    write_json(HERE / "records" / f"{record['run']}.json", record)


def write_boards() -> None:
    """A CSV a data set from the records, in the order of the suites and their models."""
    suites = [Suite.from_yaml(name) for name in SUITES]
    models = list(dict.fromkeys(model for suite in suites for model in suite.models))
    records = published_records(HERE).values()
    for dataset in dict.fromkeys(name for suite in suites for name in suite.datasets):
        here = [record for record in records if record["dataset"]["name"] == dataset]
        found = sorted(here, key=lambda record: _order(record, models))
        if found:
            write(HERE / f"{dataset}.csv", [row(record) for record in found])
            print(f"{dataset}.csv: {len(found)} rows")
    write_json(HERE / "schema.json", schema())


def _order(record: Mapping[str, Any], models: Sequence[str]) -> tuple[int, str, int]:
    net = record["model"]
    return models.index(net["name"]), net["label"], record["cost"]["forward_passes"]


if __name__ == "__main__":
    raise SystemExit(main())
