"""A leaderboard, ranked: only what an audit found sound; the rest below, with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from robustbench_med.measure.verdict import SOUND

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
    nets = list(dict.fromkeys(_net(row) for row in lines))
    lowest = {net: min((row for row in lines if _net(row) == net), key=_robust) for net in nets}
    sound: dict[tuple[str, ...], Line] = {}
    others = [row for row in lines if row["verdict"] != SOUND]
    for row in sorted((row for row in lines if row["verdict"] == SOUND), key=_robust):
        sound.setdefault(_net(row), row)
    refuted = {
        net: lowest[net] for net, row in sound.items() if _robust(row) - _robust(lowest[net]) > REFUTES
    }
    for net, least in refuted.items():
        verdict = f"refuted: {least['attack'].partition(' (')[0]} leaves less"
        others.append({**sound.pop(net), "verdict": verdict})
    return Board(title, tuple(sorted(sound.values(), key=_robust, reverse=True)), tuple(others))


def _net(row: Line) -> tuple[str, ...]:
    return tuple(row[name] for name in NET)


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
