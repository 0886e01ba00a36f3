"""Rows of leaderboards, ranked: only what an audit found sound; the rest below, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_med.measure.verdict import is_sound

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
    ranked = []
    for net, (robust, row) in sound.items():
        least, by = lowest[net]
        if robust - least > REFUTES:
            verdict = f"refuted: {by['attack'].partition(' (')[0]} leaves less"
            others.append({**row, "verdict": verdict})
        else:
            ranked.append((robust, row))
    ranked.sort(key=lambda each: each[0], reverse=True)
    return Board(_title(lines[0]), tuple(row for _, row in ranked), tuple(others))


def _keep_lower(lowest: Lowest, net: tuple[str, ...], robust: float, row: Line) -> None:
    if net not in lowest or robust < lowest[net][0]:
        lowest[net] = robust, row


def _title(row: Line) -> str:
    samples = row.get("samples") or "?"
    return f"{row['dataset']}, {samples} samples, epsilon {row['epsilon']}, goal {row['goal']}"
