"""Rows of leaderboards, ranked: only what an audit found sound; the rest below, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_med.measure.verdict import is_sound, refuted_run

THREAT = ("dataset", "dataset_fingerprint", "epsilon", "norm", "goal")
NET = ("model", "weights_sha256")
REFUTES = 0.02  # a number further off than this is no longer the one that is reported (see the audit)
Line = Mapping[str, str]
Lowest = dict[tuple[str, ...], tuple[float, Line]]
"""By net the row with the lowest robust accuracy, and that accuracy."""


@dataclass(frozen=True)
class Board:
    """Rows that can be compared: the same samples under the same threat model.

    Attributes:
        ranked: of each net the sound row with the lowest robust accuracy, the most robust net first.
        others: rows whose verdict is not "sound", and sound ones that another row of the same net refutes:
            a lower robust accuracy on the same samples is the better upper bound, whatever its verdict.
            Rows that somebody's inputs refute (``robmed refute``) say whose.
    """

    title: str
    ranked: tuple[Line, ...]
    others: tuple[Line, ...]


def boards(rows: Sequence[Line]) -> list[Board]:
    """Sort the rows of a CSV into boards; of a run's rows the last counts: audits come later.

    Args:
        rows: with the columns ``leaderboard.NEEDED`` at least; other columns may be missing.
    """
    found: dict[tuple[str, ...], list[Line]] = {}
    for row in {row["run"]: row for row in rows}.values():
        found.setdefault(_key(row, THREAT), []).append(row)
    return [_board(lines) for lines in found.values()]


def _key(row: Line, columns: Sequence[str]) -> tuple[str, ...]:
    return tuple([row.get(name, "") for name in columns])


def _board(lines: Sequence[Line]) -> Board:
    """One pass over the rows: their number may be large, and so may that of the nets."""
    lowest: Lowest = {}
    sound: Lowest = {}
    others = []
    for row in lines:
        net, robust = _key(row, NET), float(row["robust"])
        _keep_lower(lowest, net, robust, row)
        if is_sound(row["verdict"]):
            _keep_lower(sound, net, robust, row)
        else:
            others.append(row)
    named = _refuted(lines)
    others = [{**row, "verdict": named[row["run"]]} if row["run"] in named else row for row in others]
    ranked = []
    for net, (robust, row) in sound.items():
        least, by = lowest[net]
        if robust - least > REFUTES:
            attack = by["attack"].partition(" (")[0]
            verdict = _words(by) or f"refuted: {attack} leaves less"
            others.append({**row, "verdict": verdict})
        else:
            ranked.append((robust, row))
    ranked.sort(key=lambda each: each[0], reverse=True)
    return Board(_title(lines[0]), tuple(row for _, row in ranked), tuple(others))


def _refuted(lines: Sequence[Line]) -> dict[str, str]:
    """By run what is said of it because of a row that names it: the lowest one's words."""
    found: Lowest = {}
    for row in lines:
        if (refuted := refuted_run(row["verdict"])) is not None:
            _keep_lower(found, (refuted[0],), float(row["robust"]), row)
    return {run: _words(row) for (run,), (_, row) in found.items()}


def _words(by: Line) -> str:
    """What is said of a row that somebody's inputs refute; "" where ``by`` is no such refutation."""
    refuted = refuted_run(by["verdict"])
    if refuted is None:
        return ""
    return f"refuted: inputs found by {refuted[1]} leave {100 * float(by['robust']):.1f} %"


def _keep_lower(lowest: Lowest, net: tuple[str, ...], robust: float, row: Line) -> None:
    if net not in lowest or robust < lowest[net][0]:
        lowest[net] = robust, row


def _title(row: Line) -> str:
    samples = row.get("samples") or "?"
    return f"{row['dataset']}, {samples} samples, epsilon {row['epsilon']}, goal {row['goal']}"
