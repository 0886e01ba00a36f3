"""Words for the screen: what comes from files and names is data, never markup or control sequences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from robustbench_med.util.terminal import visible

if TYPE_CHECKING:
    from robustbench_med.measure.statistics import Estimate


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
