"""A leaderboard, ranked: only what an audit found sound; the rest below, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from robustbench_med.audit import SOUND

THREAT = ("dataset", "dataset_fingerprint", "epsilon", "norm", "goal")
NET = ("model", "weights_sha256")
Line = Mapping[str, str]


@dataclass(frozen=True)
class Board:
    """Rows that can be compared: the same samples under the same threat model.

    Attributes:
        ranked: of each net the sound row with the lowest robust accuracy, the most robust net first.
        others: rows whose verdict is not "sound".
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
    lowest: dict[tuple[str, ...], Line] = {}
    for row in lines:
        net = tuple(row[name] for name in NET)
        if row["verdict"] == SOUND and (net not in lowest or _robust(row) < _robust(lowest[net])):
            lowest[net] = row
    title = (
        f"{first['dataset']}, {first['samples']} samples, epsilon {first['epsilon']}, goal {first['goal']}"
    )
    others = tuple(row for row in lines if row["verdict"] != SOUND)
    return Board(title, tuple(sorted(lowest.values(), key=_robust, reverse=True)), others)


def _robust(row: Line) -> float:
    return float(row["robust"])


def show(found: Sequence[Board], console: Console) -> None:
    """Print each board."""
    for board in found:
        console.print(f"\n[bold]{board.title}[/bold]")
        table = Table(
            "rank", "model", "clean", "robust (95 %)", "attack", "verdict", box=None, pad_edge=False
        )
        for rank, row in [*enumerate(board.ranked, 1), *((0, row) for row in board.others)]:
            robust, low, high = (100 * float(row[f"robust{end}"]) for end in ("", "_low", "_high"))
            cells = [f"{100 * float(row['clean']):.1f} %", f"{robust:.1f} % ({low:.1f} to {high:.1f})"]
            attack = row["attack"].partition(" (")[0]
            table.add_row(str(rank or "-"), row["model"], *cells, attack, row["verdict"])
        console.print(table)
