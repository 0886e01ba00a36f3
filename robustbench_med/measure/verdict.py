"""Verdicts of an audit, in words (docs/method.md, "Audit")."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from re import fullmatch
from typing import Literal, get_args

Result = Literal["passed", "failed", "not made", "does not apply"]
RESULTS: tuple[Result, ...] = get_args(Result)

SOUND = "sound"
UNAUDITED = "unaudited"
FAILED = "not sound"
INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Finding:
    """One check: what came of it, and on what evidence.

    Attributes:
        check: its name.
        result: "passed", "failed", "not made" (with the reason as evidence), or "does not apply".
        evidence: a sentence for people.
        numbers: what it rests on.
    """

    check: str
    result: Result
    evidence: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, check: str, passed: bool, evidence: str, numbers: Mapping[str, float] | None = None
    ) -> Finding:
        """A check that was made."""
        return cls(check, "passed" if passed else "failed", evidence, numbers or {})


def verdict(findings: Iterable[Finding], complete: bool, knowledge: str = "") -> str:
    """What all findings add up to.

    "sound", "not sound: what failed", "incomplete: what was not made"; "unaudited" when only the cheap checks
    were asked for and none failed. A failure stands whatever was not made.

    Args:
        knowledge: what attackers the model admits at most, if not all ("score"): then that is said.
    """
    found = list(findings)
    failed = list(dict.fromkeys(f.check for f in found if f.result == "failed"))
    if failed:
        return f"{FAILED}: {', '.join(failed)}"
    if not complete:
        return UNAUDITED
    missing = list(dict.fromkeys(f.check for f in found if f.result == "not made"))
    if missing:
        return f"{INCOMPLETE}: {', '.join(missing)}"
    return f"{SOUND} against {knowledge} attackers" if knowledge else SOUND


def is_sound(words: str) -> bool:
    """Whether a verdict lets a row be ranked."""
    return words == SOUND or words.startswith(f"{SOUND} against")


def is_failed(words: str) -> bool:
    """Whether a verdict says that the number cannot be trusted."""
    return words.startswith(FAILED)


def refuting(run: str, finder: str) -> str:
    """The verdict of a row whose inputs somebody handed in against ``run``: scored here, found elsewhere."""
    return f"refutes {run}: inputs found by {finder}"


def refuted_run(words: str) -> tuple[str, str] | None:
    """The run that a row of this verdict refutes, and the finder; None if it refutes none."""
    found = fullmatch(r"refutes (\S+): inputs found by (.+)", words)
    return None if found is None else (found[1], found[2])
