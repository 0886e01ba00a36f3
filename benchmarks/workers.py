"""What workers gain, and what killing them costs: a suite of ten small runs, alone and shared out.

    python -m benchmarks.workers               # times, as ratios of one run: on a quiet machine
    python -m benchmarks.workers --kills 20    # 20 workers killed at random moments

The first prints how long the same suite takes in one process with one thread, in one with two, with one
worker and with two, and the ratio of the first to the last. Beside wall time stands processor time, which
other work on the machine moves less: with twice the processor time of one process in two workers there is
nothing to gain. Exits with 1 when the ratio is under ``--least``, or any record differs by a byte but times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LEAST = 1.8
TIMES = ("seconds", "started")
MODELS = ("concat", "robust-mail")
RADII = ("1/255", "2/255", "3/255", "4/255", "6/255")
WAYS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "one process, one thread": (1, ()),
    "one process, two threads": (2, ()),
    "one worker": (1, ("--workers", "1")),
    "two workers": (1, ("--workers", "2")),
}


@dataclass(frozen=True)
class Taken:
    """Seconds of the wall clock and of processors."""

    wall: float
    processor: float


def main() -> int:
    """Time it, or kill; see above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=60, help="of each run")
    parser.add_argument("--steps", type=int, default=20, help="of PGD")
    parser.add_argument("--rounds", type=int, default=3, help="each way so often, in turns; medians count")
    parser.add_argument("--kills", type=int, default=0, help="kill so many workers instead of timing")
    parser.add_argument("--pause", type=float, default=15, help="mean seconds between kills")
    parser.add_argument("--least", type=float, default=LEAST, help="ratio that is asked for")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        suite = write_suite(Path(scratch), options.samples, options.steps)
        if options.kills:
            return int(not killed(suite, Path(scratch), options.kills, options.pause))
        return int(not timed(suite, Path(scratch), options.rounds, options.least))


def write_suite(folder: Path, samples: int, steps: int) -> Path:
    """Ten runs: a deterministic and a random net, each at five radii, in batches of ten."""
    runs = []
    for number, radius in enumerate(RADII):
        protocol = folder / f"p{number}.yaml"
        values = {"attack": "pgd", "attack_options": {"steps": steps}, "eps": radius, "eot": 1, "draws": 4}
        protocol.write_text(yaml.safe_dump(values))
        runs.append({"protocol": str(protocol), "samples": samples, "batch_size": 10})
    suite = folder / "ten.yaml"
    values = {"title": "Ten", "datasets": ["phantom"], "models": list(MODELS), "runs": runs}
    suite.write_text(yaml.safe_dump(values))
    return suite


def timed(suite: Path, scratch: Path, rounds: int, least: float) -> bool:
    """Whether two workers are fast enough, and all records the same."""
    taken: dict[str, list[Taken]] = {way: [] for way in WAYS}
    records: dict[str, dict[str, str]] = {}
    for number in range(rounds):
        for place, (way, (threads, flags)) in enumerate(WAYS.items()):
            out = scratch / f"{number}-{place}"
            taken[way].append(one_suite(suite, out, threads, flags))
            if threads == 1:
                records[f"{number} {way}"] = records_in(out)
            print(f"round {number + 1}, {way}: {taken[way][-1].wall:.1f} s", flush=True)
    wall = {way: statistics.median(each.wall for each in found) for way, found in taken.items()}
    processor = {way: statistics.median(each.processor for each in found) for way, found in taken.items()}
    for way in WAYS:
        print(f"{way}: {wall[way]:.1f} s, of processors {processor[way]:.1f} s")
    alone, worker, two = (wall[way] for way in ("one process, one thread", "one worker", "two workers"))
    most = 2 * processor["one process, one thread"] / processor["two workers"]
    print(f"two workers are {alone / two:.2f} times as fast as one process, {worker / two:.2f} as one worker")
    print(f"by processor time at most {most:.2f}; load of the machine {os.getloadavg()[0]:.1f}")
    same = all(found == next(iter(records.values())) for found in records.values())
    print(f"records {'are the same' if same else 'DIFFER'} however they were made")
    return same and alone / two >= least


def one_suite(suite: Path, out: Path, threads: int, flags: tuple[str, ...]) -> Taken:
    """Make it, from the command to its end."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "robustbench_med", "suite", str(suite), "--out", str(out), *flags]
    surroundings = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, env=surroundings, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def records_in(out: Path) -> dict[str, str]:
    """The bytes of every record but for times, by its folder."""
    return {
        path.parent.name: json.dumps(without_times(json.loads(path.read_text())))
        for path in sorted(out.glob("*/record.json"))
    }


def without_times(value: Any) -> Any:
    """A record without what differs when the same command is repeated."""
    if isinstance(value, dict):
        return {name: without_times(each) for name, each in value.items() if name not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def killed(suite: Path, scratch: Path, kills: int, pause: float) -> bool:
    """Whether the records are the same although so many workers were killed."""
    from robustbench_med.evaluation.workers import Workers
    from robustbench_med.studies.crew import single_threaded
    from robustbench_med.studies.suite import Making, Suite, run_suite

    what = Suite.from_yaml(str(suite))
    with single_threaded():
        run_suite(what, Making(scratch / "alone"))
    alone, dead, rounds, same = records_in(scratch / "alone"), list[int](), 0, True
    while len(dead) < kills:
        rounds += 1
        ended = threading.Event()
        killer = threading.Thread(target=kill_workers, args=(kills, pause, ended, dead))
        killer.start()
        try:
            run_suite(what, Making(scratch / f"killed{rounds}", workers=Workers(2)))
        finally:
            ended.set()
            killer.join()
        same &= records_in(scratch / f"killed{rounds}") == alone
        print(f"suite {rounds}: {len(dead)} workers killed so far, records same: {same}", flush=True)
    print(f"{len(alone)} records, {len(dead)} workers killed: {'the same' if same else 'DIFFERENT'} bytes")
    return same


def kill_workers(most: int, pause: float, ended: threading.Event, dead: list[int]) -> None:
    """Kill one of this process's workers now and then."""
    chance = random.Random(len(dead))
    while len(dead) < most and not ended.wait(pause * chance.uniform(0.2, 1.8)):
        workers = [each.pid for each in multiprocessing.active_children() if each.pid is not None]
        if workers:
            dead.append(chance.choice(workers))
            os.kill(dead[-1], signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())
