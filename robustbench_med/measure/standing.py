"""Where every run stands: ranked with its neighbours, or below with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_med.measure.ranking import THREAT, Line, boards
from robustbench_med.measure.ties import Contest, Ranks, Step, ranked
from robustbench_med.measure.verdict import FAILED, INCOMPLETE, is_failed, is_sound

REFUTED, REFUTES, WEAKER, UNAUDITED = "refuted", "refutes", "weaker", "unaudited"


@dataclass(frozen=True)
class Place:
    """One run on its board.

    Attributes:
        rank: 0 where it is not ranked.
        shared: whether neighbours have the same rank.
        standing: "sound" for those that are ranked; else "unaudited", "incomplete", "not sound", "refuted" (a
            lower row of the same net shows it to be too high), "refutes" (somebody's inputs, which show that
            of another row) or "weaker" (a row of the same net with a
            lower number is ranked in its stead).
        reason: in words, why it is not ranked; "" for those that are.
        next: how it was compared with the next below; None at the end.
    """

    row: Line
    rank: int
    shared: bool
    standing: str
    reason: str
    next: Step | None = None


@dataclass(frozen=True)
class Standings:
    """All runs on the same samples under the same threat model, those that are ranked first."""

    title: str
    places: tuple[Place, ...]
    ranks: Ranks


def standings(rows: Sequence[Line], records: Mapping[str, Mapping[str, Any]]) -> list[Standings]:
    """Every row on its board; none is left out, as one is on ``ranking.boards`` that a lower one replaces.

    Args:
        rows: as CSVs have them.
        records: by run, as far as they are at hand: paired tests need them.
    """
    by_board: dict[tuple[str, ...], list[Line]] = {}
    for row in {row["run"]: row for row in rows}.values():
        by_board.setdefault(tuple(row.get(name, "") for name in THREAT), []).append(row)
    found = []
    for lines in by_board.values():
        (board,) = boards(lines)
        ranks = ranked([_contest(row, records) for row in board.ranked])
        steps = [*ranks.steps, None]
        top = [
            Place(row, ranks.ranks[i], ranks.shared(i), "sound", "", steps[i])
            for i, row in enumerate(board.ranked)
        ]
        refuted = {row["run"]: row["verdict"] for row in board.others}
        above = {row["run"] for row in board.ranked}
        below = [_below(row, refuted) for row in lines if row["run"] not in above]
        below.sort(key=lambda place: -float(place.row["robust"]))
        found.append(Standings(board.title, (*top, *below), ranks))
    return found


def _contest(row: Line, records: Mapping[str, Mapping[str, Any]]) -> Contest:
    robust = float(row["robust"])
    low, high = (float(row.get(f"robust_{end}") or robust) for end in ("low", "high"))
    return Contest((robust, low, high), records.get(row["run"]))


def _below(row: Line, refuted: Mapping[str, str]) -> Place:
    """A row that is not ranked, with the reason."""
    verdict = row["verdict"]
    said = refuted.get(row["run"], verdict)
    if said.startswith(REFUTED):
        return Place(row, 0, False, REFUTED, said)
    if said.startswith(REFUTES):
        return Place(row, 0, False, REFUTES, said)
    if is_sound(verdict):
        return Place(
            row, 0, False, WEAKER, "sound, but another attack leaves this net less: that row is ranked"
        )
    if is_failed(verdict):
        return Place(row, 0, False, FAILED, verdict)
    if verdict.startswith(INCOMPLETE):
        return Place(row, 0, False, INCOMPLETE, verdict)
    return Place(row, 0, False, UNAUDITED, "no audit was made")
