"""The verdict on a command that was given something wrong."""

from __future__ import annotations

import csv
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from benchmarks.reliability.case import ACCEPTED, REFUSED, Case
from benchmarks.reliability.process import BUG, Finished
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.util.errors import UserError

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
WARNING = "robmed: warning: "
WORKING = ("parts", "audit", "eot")  # folders that only a killed run may leave


def judge(
    case: Case, found: Finished, before: Mapping[str, str], after: Mapping[str, str], at: Path
) -> tuple[str, str]:
    """The verdict, and what there is to say of it."""
    last = (found.err.strip().splitlines() or found.out.strip().splitlines() or [""])[-1]
    if found.hung:
        return "hang", f"after {found.seconds:.0f} s"
    if found.code < 0 or found.code == BUG or "Traceback (most recent call last)" in found.err:
        if case.expect == "bug":
            return "traceback of a plug-in's bug", last
        return "traceback", last if found.code >= 0 else f"ended by signal {-found.code}"
    if found.code == 2:
        return _refused(case, found, before, after)
    if found.code not in (0, 1):
        return "traceback", f"exit code {found.code}: {last}"
    if control := CONTROL.search(found.out + found.err):
        return "not one line", f"control character {control[0]!r} in the output"
    if case.expect == REFUSED:
        return "accepted though wrong", (found.err or found.out).strip()[:400]
    wrong = next(_half_written(case, before, after, at), None)
    return ("half-written", wrong) if wrong else (ACCEPTED, last)


def _refused(
    case: Case, found: Finished, before: Mapping[str, str], after: Mapping[str, str]
) -> tuple[str, str]:
    lines = [line for line in found.err.split("\n") if line and not line.startswith(WARNING)]
    line = lines[-1] if lines else ""
    if len(lines) != 1 or not line.startswith("robmed: ") or CONTROL.search(line):
        return "not one line", found.err.strip() or "nothing on standard error"
    wrong = next(_left_by_refusal(case, before, after), None)
    if wrong:
        return "half-written", f"{wrong}; {line}"
    if case.names and not any(said(name, line) for name in case.names):
        return "says nothing", f"none of {', '.join(map(repr, case.names))} in: {line}"
    if case.expect == ACCEPTED:
        return "refused though right", line
    return REFUSED, line


def said(name: str, line: str) -> bool:
    """Whether a line holds a name, as it is or as Python quotes it."""
    return any(each.lower() in line.lower() for each in (name, repr(name)[1:-1]))


def _left_by_refusal(case: Case, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for path, kind in after.items():
        goes_on = case.keeps and any(fnmatch.fnmatch(path, pattern) for pattern in case.writes)
        if before.get(path) != kind and kind != "folder" and not path.endswith(".lock") and not goes_on:
            yield f"{path} was {'changed' if path in before else 'written'}"
    yield from (f"{path} is gone" for path in before if path not in after)


def _half_written(case: Case, before: Mapping[str, str], after: Mapping[str, str], at: Path) -> Iterator[str]:
    """What is wrong with what a command left that ended well."""
    for path, kind in after.items():
        if before.get(path) == kind or kind == "folder":
            continue
        parts = PurePosixPath(path).parts
        if path in before and not any(fnmatch.fnmatch(path, pattern) for pattern in case.writes):
            yield f"{path} was changed"
        if parts[-1].startswith(".") and not path.endswith(".lock"):
            yield f"the temporary file {path} is left"
        if len(parts) > 2 and parts[-2] in WORKING and "home" not in parts:
            yield f"{path} is left"
        if kind not in ("link", "pipe", "other"):
            yield from unreadable(at / path)
    for path in before:
        if path not in after and not any(
            fnmatch.fnmatch(path, pattern) for pattern in (*case.writes, "home/*")
        ):
            yield f"{path} is gone"


def unreadable(path: Path) -> Iterator[str]:
    """What is wrong with a file that a command wrote; nothing is read that it knows no check for."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"), parse_constant=_no_number)
        elif path.name == "outcomes.npz":
            Outcomes.load(path)
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as stream:
                widths = {len(row) for row in csv.reader(stream, strict=True) if row}
            if len(widths) > 1:
                yield f"{path.name} has rows of {sorted(widths)} cells"
    except (UserError, ValueError, csv.Error) as error:
        yield f"{path.name} does not read back: {error}"


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is not JSON")
