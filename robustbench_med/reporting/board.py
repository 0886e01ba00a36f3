"""A board on the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len

from robustbench_med.measure.ranking import Board
from robustbench_med.util.terminal import say, visible

TITLES = ("rank", "model", "clean %", "robust % (95 %)", "attack", "verdict")
GAP = "  "


def show(found: Sequence[Board]) -> None:
    """Print each board; boards are long, and rich takes milliseconds a row to lay out a table."""
    for board in found:
        say()
        say(board.title)
        numbered = [*enumerate(board.ranked, 1), *((0, row) for row in board.others)]
        lines = [TITLES, *(_cells(rank, row) for rank, row in numbered)]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        for cells in lines:
            say(GAP.join(map(_padded, cells, widths, range(len(cells)))).rstrip())


def _cells(rank: int, row: Mapping[str, str]) -> tuple[str, ...]:
    robust, low, high = (_percent(row, f"robust{end}") for end in ("", "_low", "_high"))
    shown = (
        *(str(rank or "-"), row["model"], _percent(row, "clean"), f"{robust} ({low} to {high})"),
        *(row["attack"].partition(" (")[0], row["verdict"]),
    )
    return tuple([visible(cell) for cell in shown])


def _percent(row: Mapping[str, str], column: str) -> str:
    """A share in per cent; "-" where the file has none."""
    cell = row.get(column)
    return f"{100 * float(cell):.1f}" if cell else "-"


def _width(cell: str) -> int:
    return len(cell) if cell.isascii() else cell_len(cell)


def _padded(cell: str, width: int, column: int) -> str:
    """Numbers to the right; ranks, models, attacks and verdicts to the left."""
    space = " " * (width - _width(cell))
    return space + cell if TITLES[column].endswith(("%", ")")) else cell + space
