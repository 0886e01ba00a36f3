"""The comparison of two runs, for people."""

from __future__ import annotations

from rich.console import Console

from robustbench_med.measure.compare import Comparison
from robustbench_med.measure.statistics import Difference
from robustbench_med.reporting.text import bare_table, headed


def show(found: Comparison, console: Console, non_inferior: bool) -> None:
    """Print both differences and, if it was asked for, whether the new run is no worse on other patients."""
    headed(console, f"{found.models[1]} less {found.models[0]}, {found.headline}, {found.samples} samples")
    table = bare_table("accuracy", "difference in points (95 %)", "McNemar p")
    for name, difference in (("clean", found.clean), ("robust", found.robust)):
        p_value = "-" if difference.p_value is None else f"{difference.p_value:.3g}"
        table.add_row(name, _points(difference), p_value)
    console.print(table)
    if non_inferior:
        low, margin = -100 * found.robust.low, 100 * found.margin
        passed = f"passed, a fall by the margin of {margin:g} points is excluded"
        failed = f"FAILED, it may have fallen by {low:.1f} points, and the margin is {margin:g}"
        console.print(f"no worse on other patients: {passed if found.is_no_worse else failed}")


def _points(difference: Difference) -> str:
    value, low, high = (100 * d for d in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
