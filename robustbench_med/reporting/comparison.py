"""The comparison of two runs, for people."""

from __future__ import annotations

from rich.console import Console

from robustbench_med.measure.compare import Comparison
from robustbench_med.measure.statistics import Difference
from robustbench_med.reporting.text import bare_table, headed, plain


def show(found: Comparison, console: Console, gate: bool) -> None:
    """Print both differences and, if it was asked for, what the gate says."""
    headed(console, f"{found.models[1]} less {found.models[0]}, {found.headline}, {found.samples} samples")
    table = bare_table("accuracy", "difference in points (95 %)", "McNemar p")
    for name, difference in (("clean", found.clean), ("robust", found.robust)):
        p_value = "-" if difference.p_value is None else f"{difference.p_value:.3g}"
        table.add_row(name, _points(difference), p_value)
    console.print(table)
    if gate:
        margin = f"margin {100 * found.margin:g} points"
        passed = f"gate    passed: robust accuracy is no worse ({margin})"
        failed = "\n".join(f"gate    FAILED: {plain(c)} ({margin})" for c in found.complaints)
        console.print(failed or passed)


def _points(difference: Difference) -> str:
    value, low, high = (100 * d for d in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
