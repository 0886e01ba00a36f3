"""Words for the screen: what comes from files and names is data, never markup or control sequences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from robustbench_med.util.terminal import visible

if TYPE_CHECKING:
    from robustbench_med.measure.statistics import Estimate


WIDEST_TITLE = 20  # of a column of numbers: "100.0 (99.9 to 100.0)" is about as wide


@dataclass(frozen=True)
class NumberRow:
    """A line of ``number_table``: a name and its numbers, as they are shown."""

    name: str
    cells: Sequence[str]
    style: str = ""


def plain(text: object) -> str:
    """A text that rich prints as it is, on one line."""
    return escape(visible(text))


def percent(estimate: Estimate) -> str:
    """A share and its interval in per cent: "96.0 (92.7 to 97.9)"."""
    return _interval(estimate.value, estimate.low, estimate.high)


def stored_percent(stored: Mapping[str, Any]) -> str:
    """``percent`` of an estimate as records have it."""
    return _interval(stored["value"], stored["low"], stored["high"])


def _interval(*shares: float) -> str:
    value, low, high = (100 * share for share in shares)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def bare_table(*titles: str) -> Table:
    """A table without lines, whose first column is left-aligned and no number is ever cut."""
    table = Table(box=None, pad_edge=False, show_header=bool(titles))
    for number, title in enumerate(titles):
        table.add_column(
            title,
            justify="right" if number else "left",
            no_wrap=number > 0,
            vertical="bottom",
            overflow="fold",
        )
    return table


def number_table(console: Console, titles: Sequence[str], rows: Sequence[NumberRow]) -> None:
    """Print numbers right-aligned behind names, within the width of the console.

    A name that leaves no room for its numbers gets a line of its own, and columns that do not fit beside
    each other stand below: no number is ever cut, and no name within a word.

    Args:
        titles: of the names and of each column.
    """
    names = [visible(row.name) for row in rows]
    titles = [visible(titles[0]), *titles[1:]]
    heads = [broken(visible(title, keep="\n"), WIDEST_TITLE) for title in titles]
    widths = [max(map(cell_len, [*h, *(r.cells[c - 1] for r in rows if c)])) for c, h in enumerate(heads)]
    free = console.width - cell_len(titles[0])
    gap = 2 if sum(width + 2 for width in widths[1:]) <= free else 1
    for number, columns in enumerate(_blocks(free, [width + gap for width in widths[1:]])):
        if number:
            console.print()
        room = console.width - sum(widths[c] + gap for c in columns)
        first = max(map(cell_len, [titles[0], *(name for name in names if cell_len(name) <= room)]))
        high = max(len(heads[c]) for c in columns)
        for line in range(high):
            shown = [["", *[""] * high, *heads[c]][line - high] for c in columns]
            title = titles[0] if line == high - 1 else ""
            _line(console, title, first, shown, [widths[c] + gap for c in columns], "bold")
        for name, row in zip(names, rows, strict=True):
            if cell_len(name) > first:
                for part in broken(name, console.width):
                    console.print(Text(part, style=row.style))
            cells = [row.cells[c - 1] for c in columns]
            shown_name = "" if cell_len(name) > first else name
            _line(console, shown_name, first, cells, [widths[c] + gap for c in columns], row.style)


def _blocks(free: int, widths: Sequence[int]) -> list[list[int]]:
    """The columns (from 1) that stand beside each other."""
    blocks: list[list[int]] = [[]]
    for column, wide in enumerate(widths, 1):
        if blocks[-1] and sum(widths[c - 1] for c in blocks[-1]) + wide > free:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _line(
    console: Console, name: str, first: int, cells: Sequence[str], widths: Sequence[int], style: str
) -> None:
    text = name + " " * (first - cell_len(name))
    for cell, width in zip(cells, widths, strict=True):
        text += " " * (width - cell_len(cell)) + cell
    console.print(Text(text.rstrip(), style=style), overflow="ignore", no_wrap=True, crop=False)


def broken(name: str, width: int) -> list[str]:
    """A name in lines, broken between its words; within one only if that alone is too long."""
    lines = [""]
    for part in re.findall(r"[^\s_./-]*[\s_./-]?", name):
        for piece in [part[i : i + width] for i in range(0, len(part), width)]:
            if cell_len((lines[-1] + piece).rstrip()) > width and lines[-1]:
                lines.append("")
            lines[-1] += piece.replace("\n", "")
            if piece.endswith("\n"):
                lines.append("")
    return [line.rstrip() for line in lines if line.strip()] or [""]


def notes_table() -> Table:
    """Two columns, a word and what there is to say about it, which may take several lines."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def headed(console: Console, title: str) -> None:
    """A title above what follows."""
    console.print(f"\n[bold]{plain(title)}[/bold]")


def markdown_cell(text: object) -> str:
    """A text within a cell of a Markdown table."""
    return re.sub(r"([\\`|<>\[\]*])", r"\\\1", visible(text))


def markdown_code(text: object) -> str:
    """A text as code within a cell of a Markdown table."""
    return "`" + visible(text).replace("`", "'").replace("|", "\\|") + "`"
