"""Commands that are killed at random moments, and made again to the end; and two at once."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import numpy as np

from benchmarks.reliability.case import Result, command_of
from benchmarks.reliability.process import Finished, begin, execute, finish
from benchmarks.reliability.sound import CERTIFY, lay_out
from benchmarks.reliability.verdict import unreadable

SLOW = 60.0  # seconds of processor time, as these commands do more
# Fields that differ between two equal runs: times, and the checkout, which may change meanwhile.
VARYING = ("started", "seconds", "commit", "dirty")
LONG = ("--model", "concat", "--dataset", "pair", "--samples", "8", "--batch-size", "2", "--out", "out")
ENTRY = "  - {{protocol: {0}, audit: '', samples: 8, batch_size: 2, title: {1}}}\n"
LONG_SUITE = "title: Q\ndatasets: [pair]\nmodels: [concat]\nruns:\n"
LONG_SUITE += ENTRY.format("protocol.yaml", "one") + ENTRY.format("random.yaml", "two")
CERTIFYING = (*CERTIFY[:-1], "12", "--batch-size", "5", "--out", "out")


@dataclass(frozen=True)
class Scenario:
    """A command that is killed.

    Attributes:
        needs: as of a ``Case``.
    """

    arguments: tuple[str, ...]
    needs: tuple[str, ...]


NEEDS = ("weights/pair", "protocol.yaml", "random.yaml", "audit.yaml", "gate.yaml", "baseline")
SHARED = ("--workers", "2")
SCENARIOS: Mapping[str, Scenario] = {
    "run": Scenario(("run", *LONG, "--attack", "pgd", "--steps", "4"), NEEDS),
    "worst": Scenario(("run", *LONG, "--attack", "fgsm,pgd", "--steps", "2"), NEEDS),
    "random": Scenario(("run", "random.yaml", "--out", "out"), NEEDS),
    "auto": Scenario(("run", "random.yaml", "--eot", "auto", "--samples", "4", "--out", "out"), NEEDS),
    "audit": Scenario(("audit", *LONG, "--attack", "pgd", "--audit", "audit.yaml"), NEEDS),
    "curve": Scenario(("curve", *LONG, "--attack", "pgd", "--steps", "2", "--radii", "1/255,4/255"), NEEDS),
    "modalities": Scenario(("modalities", *LONG, "--attack", "pgd", "--steps", "2"), NEEDS),
    "suite": Scenario(("suite", "long-suite.yaml", "--out", "out"), NEEDS),
    "shared": Scenario(("run", *LONG, "--attack", "pgd", "--steps", "4", *SHARED), NEEDS),
    "shared-suite": Scenario(("suite", "long-suite.yaml", "--out", "out", *SHARED), NEEDS),
    "check": Scenario(("check", "--config", "gate.yaml", "--junit", "out/junit.xml"), NEEDS),
    "certify": Scenario(("certify", *CERTIFYING), NEEDS),
    "train": Scenario(("train", "long.yaml", "--out", "out"), ("long.yaml",)),
    "import": Scenario(("data", "import", "mri-ct", "--from", "slices", "--option", "size=28"), ("slices",)),
    "import-again": Scenario(
        ("data", "import", "milk10k", "--from", "milk", "--option", "size=32"),
        ("milk", "home/datasets/milk10k"),
    ),
}
# Several at once, in one folder: all of their rows must be there, each once.
TOGETHER: Mapping[str, tuple[str, ...]] = {
    "same": ("run", "run"),
    "three": ("run", "run", "run"),
    "different": ("run", "random", "audit"),
    "overlapping": ("worst", "run", "curve"),
    "tables": ("modalities", "curve", "suite"),
    "certify": ("certify", "certify", "run"),
    "check": ("check", "check"),
    "train": ("train", "train"),
    "import": ("import", "import"),
    "import-and-read": ("import-again", "import-again", "run"),
}


@dataclass(frozen=True)
class Kill:
    """One disturbed command: killed so many times, or beside others.

    Attributes:
        scenario: a key of ``SCENARIOS``, or of ``TOGETHER``.
    """

    name: str
    scenario: str
    together: bool = False


def all_kills(count: int = 120) -> Iterator[Kill]:
    """The kills, in turn over the commands; and all that run at once."""
    names = list(SCENARIOS)
    for number in range(count):
        scenario = names[number % len(names)]
        yield Kill(f"kill/{scenario}/{number // len(names):02d}", scenario)
    for name in TOGETHER:
        yield Kill(f"together/{name}", name, together=True)


def run_kill(kill: Kill, root: Path, seed: int, keep: bool = False) -> Result:
    """Disturb, make again to the end, and hold what is left against what an undisturbed command leaves."""
    rng = Random(f"{seed}/{kill.name}")
    members = TOGETHER[kill.scenario] if kill.together else (kill.scenario,)
    command = "at once" if kill.together else f"kill {command_of(SCENARIOS[kill.scenario].arguments)}"
    wanted: dict[str, Any] = {}
    longest = 0.0
    for member in dict.fromkeys(members):
        found, seconds = _undisturbed(member, root)
        wanted = _merged(wanted, found)
        longest = max(longest, seconds)
    folder = _laid_out(members, root)
    try:
        if kill.together:
            told = [told for done in _at_once(members, folder) if (told := _wrong_end(done, 0))]
        else:
            told = _killed(SCENARIOS[kill.scenario], folder, longest, rng, keep)
        told += list(_differences(wanted, _left(folder)))
        if keep:
            print(f"folder {folder}")
        return Result(
            kill.name, command, "differs" if told else "as undisturbed", "; ".join(told[:3]), longest
        )
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _killed(scenario: Scenario, folder: Path, longest: float, rng: Random, say: bool) -> list[str]:
    """Kill a command one to three times, then run it to the end; what was not as it should be on the way."""
    told = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        moment, number = rng.uniform(0, longest), rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
        done = execute(scenario.arguments, folder, limit=SLOW, end=(moment, number))
        if say:
            print(f"signal {number} after {moment:.2f} s: exit code {done.code}\n{done.err}")
        if number == signal.SIGINT and (wrong := _wrong_end(done, 130)):
            told.append(wrong)
    done = execute(scenario.arguments, folder, limit=SLOW)
    if say:
        print(done.out + done.err)
    return told + ([wrong] if (wrong := _wrong_end(done, 0)) else [])


def _wrong_end(done: Finished, code: int) -> str:
    """What is wrong with how a command ended; an interruption may come before or after its time."""
    if done.code == code and "Traceback" not in done.err:
        return ""
    if code == 130 and done.code in (0, -signal.SIGINT) and "Traceback" not in done.err:
        return ""
    last = (done.err.strip().splitlines() or [""])[-1]
    return f"{'interrupted: ' if code else ''}exit code {done.code}: {last}"


_references: dict[str, tuple[dict[str, Any], float]] = {}


def _undisturbed(scenario: str, root: Path) -> tuple[dict[str, Any], float]:
    """What a command leaves, and how long it takes: made once a process."""
    if scenario not in _references:
        folder = _laid_out((scenario,), root)
        done = execute(SCENARIOS[scenario].arguments, folder, limit=SLOW)
        if done.code != 0:
            raise RuntimeError(f"robmed {' '.join(SCENARIOS[scenario].arguments)} should work: {done.err}")
        _references[scenario] = (_left(folder), done.seconds)
        shutil.rmtree(folder)
    return _references[scenario]


def _laid_out(members: tuple[str, ...], root: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="kill-", dir=root.parent)).resolve()
    lay_out(root, tuple(dict.fromkeys(need for name in members for need in SCENARIOS[name].needs)), folder)
    (folder / "home").mkdir(exist_ok=True)
    (folder / "long-suite.yaml").write_text(LONG_SUITE, "utf-8")
    return folder


def _at_once(members: tuple[str, ...], folder: Path) -> list[Finished]:
    """Begin all, then gather how each ended."""
    begun = [begin(SCENARIOS[name].arguments, folder, limit=SLOW) for name in members]
    return [finish(running, SLOW) for running in begun]


def _left(folder: Path) -> dict[str, Any]:
    """By path below ``folder`` what matters of each file that a command wrote, hidden ones left out."""
    found: dict[str, Any] = {}
    for place in ("out", "home"):
        for path in sorted((folder / place).rglob("*")):
            parts = path.relative_to(folder).parts
            if path.is_dir() or any(part.startswith(".") for part in parts):
                continue
            found[PurePosixPath(*parts).as_posix()] = _content(path)
    return found


def _content(path: Path) -> Any:
    if wrong := next(unreadable(path), None):
        return wrong
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text("utf-8")))
    if path.name == "outcomes.npz":
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name].tobytes() for name in stored.files if name != "seconds"}
    if path.suffix == ".csv" and "home" not in path.parts:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [{k: v for k, v in row.items() if k not in VARYING} for row in csv.DictReader(stream)]
        return Counter(json.dumps(row) for row in rows)
    if path.suffix == ".png":
        return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in VARYING}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """What two commands leave together: equal files once, rows of one leaderboard under each other."""
    merged = first | second
    for name in first.keys() & second.keys():
        if isinstance(first[name], Counter):
            merged[name] = first[name] | second[name]
    return merged


def _differences(wanted: dict[str, Any], left: dict[str, Any]) -> Iterator[str]:
    for name in sorted(wanted.keys() | left.keys()):
        if name not in left:
            yield f"{name} is missing"
        elif name not in wanted:
            yield f"{name} is too many"
        elif wanted[name] != left[name]:
            yield _difference(name, wanted[name], left[name])


def _difference(name: str, wanted: Any, left: Any) -> str:
    if isinstance(wanted, Counter) and isinstance(left, Counter):
        twice = sum(count - 1 for count in left.values())
        lost, others = len(wanted - left), len(left.keys() - wanted.keys())
        return f"{name}: {lost} rows are missing, {others} are others, {twice} are there twice"
    if isinstance(wanted, dict) and isinstance(left, dict):
        fields = sorted(key for key in wanted.keys() | left.keys() if wanted.get(key) != left.get(key))
        return f"{name}: other {', '.join(fields)}"
    return f"{name}: {left if isinstance(left, str) and ' ' in left else 'other content'}"
