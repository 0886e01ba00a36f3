"""Accuracy over epsilon, as a table and as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from robustbench_med.measure.curve import EpsilonCurve
from robustbench_med.reporting.figures import label, pyplot, saved
from robustbench_med.reporting.text import NumberRow, headed, number_table, percent, plain

MOST_LINES = 8


def draw(curve: EpsilonCurve, path: Path) -> None:
    """Write a PNG: a line a head with 95 % intervals, the headline thick."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 3.6))
    radii = np.array(curve.radii) * (255 if curve.norm == "linf" else 1)
    for name, estimates in list(curve.accuracy.items())[:MOST_LINES]:
        values, low, high = (
            100 * np.array([getattr(e, kind) for e in estimates]) for kind in ("value", "low", "high")
        )
        width = 2.5 if name == curve.headline else 1.2
        axis.plot(radii, values, marker="o", linewidth=width, label=label(name))
        axis.fill_between(radii, low, high, alpha=0.15)
    axis.set_xlabel(f"epsilon of {label(curve.of)} ({'1/255' if curve.norm == 'linf' else curve.norm})")
    axis.set_ylabel("accuracy (%)")
    axis.set_ylim(0, 100)
    axis.set_xlim(left=0)
    axis.legend(frameon=False, fontsize=8)
    axis.set_title(f"{label(curve.title)}\narea {100 * curve.area:.1f} %", fontsize=9)
    figure.tight_layout()
    saved(figure, path)


def show(curve: EpsilonCurve, console: Console) -> None:
    """Print a row a radius."""
    headed(console, curve.title)
    names = list(curve.accuracy)[:MOST_LINES]
    rows = []
    for place, epsilon in enumerate(curve.radii):
        cells = [percent(curve.accuracy[name][place]) for name in names]
        rows.append(NumberRow(_radius(curve, epsilon) if epsilon else "clean", cells))
    number_table(console, [f"epsilon of {curve.of}", *(f"{name} %" for name in names)], rows)
    low, high = curve.median
    reached = (
        f"{_radius(curve, low)} to {_radius(curve, high)}"
        if high is not None
        else f"over {_radius(curve, low)}"
    )
    console.print(f"area    {100 * curve.area:.1f} % ({plain(curve.headline)}, mean over the radii)")
    console.print(f"median  minimum perturbation {reached}")


def _radius(curve: EpsilonCurve, epsilon: float) -> str:
    return f"{epsilon * 255:.4g}/255" if curve.norm == "linf" else f"{epsilon:.4g}"
