"""Accuracy over epsilon, as a table and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from robustbench_med.api.threat import Norm
from robustbench_med.reporting.figures import pyplot
from robustbench_med.reporting.leaderboard import radius
from robustbench_med.reporting.table import percent
from robustbench_med.util.files import replacing

if TYPE_CHECKING:
    from robustbench_med.studies.curve import EpsilonCurve


def draw(curve: EpsilonCurve, path: Path) -> None:
    """Write a PNG: a line a head with 95 % intervals, the headline thick."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 3.6))
    unit = 255 if curve.norm == "linf" else 1
    radii = np.array(curve.radii) * unit
    for name, estimates in curve.accuracy.items():
        values, low, high = (
            100 * np.array([getattr(e, kind) for e in estimates]) for kind in ("value", "low", "high")
        )
        width = 2.5 if name == curve.headline else 1.2
        axis.plot(radii, values, marker="o", linewidth=width, label=name)
        axis.fill_between(radii, low, high, alpha=0.15)
    axis.set_xlabel("epsilon (1/255)" if curve.norm == "linf" else f"epsilon ({curve.norm})")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(0, 100)
    axis.set_xlim(left=0)
    axis.legend(frameon=False)
    axis.set_title(f"{curve.title}\narea {100 * curve.area:.1f} %", fontsize=9)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def show(curve: EpsilonCurve, console: Console) -> None:
    """Print a row a radius."""
    console.print(f"\n[bold]{curve.title}[/bold]")
    norm: Norm = "linf" if curve.norm == "linf" else "l2"
    table = Table(box=None, pad_edge=False)
    table.add_column("epsilon", justify="right", no_wrap=True)
    for name in curve.accuracy:
        table.add_column(f"{name} (95 %)", justify="right", no_wrap=True)
    for place, epsilon in enumerate(curve.radii):
        cells = [percent(estimates[place]) for estimates in curve.accuracy.values()]
        table.add_row(radius(norm, epsilon) if epsilon else "clean", *cells)
    console.print(table)
    low, high = curve.median
    reached = (
        f"{radius(norm, low)} to {radius(norm, high)}" if high is not None else f"over {radius(norm, low)}"
    )
    console.print(f"area    {100 * curve.area:.1f} % ({curve.headline}, mean over the radii)")
    console.print(f"median  minimum perturbation {reached}")
