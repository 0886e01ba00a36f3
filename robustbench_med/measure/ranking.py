"""Rows of leaderboards, ranked: only what an audit found sound; the rest below, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_med.measure.verdict import is_sound

THREAT = ("dataset", "dataset_fingerprint", "epsilon", "norm", "goal")
NET = ("model", "weights_sha256")
REFUTES = 0.02  # a number further off than this is no longer the one that is reported (see the audit)
Line = Mapping[str, str]


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
    """Sort the rows of a CSV into boards; of a run's rows the last counts: audits come later."""
    found: dict[tuple[str, ...], list[Line]] = {}
    for row in {row["run"]: row for row in rows}.values():
        found.setdefault(tuple(row[name] for name in THREAT), []).append(row)
    return [_board(lines) for lines in found.values()]


def _board(lines: Sequence[Line]) -> Board:
    first = lines[0]
    title = (
        f"{first['dataset']}, {first['samples']} samples, epsilon {first['epsilon']}, goal {first['goal']}"
    )
    lowest: dict[tuple[str, ...], Line] = {}
    sound: dict[tuple[str, ...], Line] = {}
    for row in lines:
        net = tuple(row[name] for name in NET)
        if net not in lowest or _robust(row) < _robust(lowest[net]):
            lowest[net] = row
        if is_sound(row["verdict"]) and (net not in sound or _robust(row) < _robust(sound[net])):
            sound[net] = row
    others = [row for row in lines if not is_sound(row["verdict"])]
    for net, row in list(sound.items()):
        least = lowest[net]
        if _robust(row) - _robust(least) > REFUTES:
            verdict = f"refuted: {least['attack'].partition(' (')[0]} leaves less"
            others.append({**sound.pop(net), "verdict": verdict})
    return Board(title, tuple(sorted(sound.values(), key=_robust, reverse=True)), tuple(others))


def _robust(row: Line) -> float:
    return float(row["robust"])
