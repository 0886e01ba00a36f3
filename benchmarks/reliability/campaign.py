"""The cases of bad input, run and judged."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from benchmarks.reliability import configs, flags, inputs, kills, publishers, surroundings
from benchmarks.reliability.case import Case, Result, sample, snapshot
from benchmarks.reliability.process import execute
from benchmarks.reliability.sound import lay_out
from benchmarks.reliability.verdict import judge


def all_cases() -> list[Case]:
    """Every case of bad input, in an order that says nothing."""
    return sample(
        [
            *configs.all_cases(),
            *inputs.all_cases(),
            *publishers.all_cases(),
            *flags.all_cases(),
            *surroundings.all_cases(),
        ],
        None,
    )


def run_case(case: Case, root: Path, seed: int, keep: bool = False) -> Result:
    """Run one case in a folder of its own.

    Args:
        root: the sound files.
        keep: leave the folder, to look at it.
    """
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=root.parent)).resolve()
    try:
        lay_out(root, case.needs, folder)
        (folder / "home").mkdir(exist_ok=True)
        case.spoil(folder, Random(f"{seed}/{case.name}"))
        before = snapshot(folder)
        found = execute(case.arguments, folder, case.conditions)
        verdict, told = judge(case, found, before, snapshot(folder), folder)
        if keep:
            print(found.out + found.err, f"exit code {found.code}", f"folder {folder}", sep="\n")
        return Result(case.name, case.command, verdict, told, found.worked)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def run_any(
    name: str, seed: int, root: Path, known: Mapping[str, Case | kills.Kill], keep: bool = False
) -> Result:
    """Run what has this name."""
    chosen = known[name]
    if isinstance(chosen, Case):
        return run_case(chosen, root, seed, keep)
    return kills.run_kill(chosen, root, seed, keep)


def in_parallel(
    names: Sequence[str], seed: int, root: Path, known: Mapping[str, Case | kills.Kill], jobs: int
) -> Iterator[Result]:
    """Run many, in as many forked workers; each forks its commands itself, and these may have workers."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    global _work
    _work = (seed, root, known)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        for done in as_completed([pool.submit(_one, name) for name in names]):
            yield done.result()


_work: tuple[int, Path, Mapping[str, Case | kills.Kill]]


def _one(name: str) -> Result:
    seed, root, known = _work
    return run_any(name, seed, root, known)
