"""A board on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from robustbench_med.measure.ranking import Board
from robustbench_med.reporting.text import bare_table, headed, plain


def show(found: Sequence[Board], console: Console) -> None:
    """Print each board."""
    for board in found:
        headed(console, board.title)
        table = bare_table("rank", "model", "clean %", "robust % (95 %)", "attack", "verdict")
        for rank, row in [*enumerate(board.ranked, 1), *((0, row) for row in board.others)]:
            robust, low, high = (100 * float(row[f"robust{end}"]) for end in ("", "_low", "_high"))
            cells = [f"{100 * float(row['clean']):.1f}", f"{robust:.1f} ({low:.1f} to {high:.1f})"]
            attack = row["attack"].partition(" (")[0]
            shown = (str(rank or "-"), row["model"], *cells, attack, row["verdict"])
            table.add_row(*map(plain, shown))
        console.print(table)
