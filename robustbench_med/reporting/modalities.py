"""The table of modalities, for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from robustbench_med.reporting.table import percent
from robustbench_med.studies.modalities import ModalityTable, Row


def show(found: ModalityTable, console: Console) -> None:
    """Print a row a situation, and the leakage between unrelated images."""
    console.print(f"\n[bold]{found.title}[/bold]")
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    heads = list(found.rows[0].accuracy)
    for head in heads:
        table.add_column(f"{head} (95 %)", justify="right", no_wrap=True)
    for row in found.rows:
        cells = [percent(row.accuracy[head]) if head in row.accuracy else "-" for head in heads]
        table.add_row(_situation(row), *cells)
    console.print(table)
    for path, lost in found.leakage.items():
        console.print(f"leakage {path}: {100 * lost:.1f} points lost to an image the label is not about")


def _situation(row: Row) -> str:
    if row.situation == "clean":
        return "clean"
    aim = f", aimed at {row.goal}" if row.goal else ""
    return f"{' + '.join(row.modalities)} {row.situation}{aim}"
