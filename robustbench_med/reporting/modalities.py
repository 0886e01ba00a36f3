"""The table of modalities, for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from robustbench_med.measure.modalities import ModalityTable, Situation
from robustbench_med.reporting.figures import label, pyplot, saved
from robustbench_med.reporting.text import NumberRow, headed, number_table, percent, plain

MOST = 6  # heads in a table or figure


def show(found: ModalityTable, console: Console) -> None:
    """Print a row a situation, and the leakage between unrelated inputs."""
    headed(console, found.title)
    heads = list(found.rows[0].accuracy)[:MOST]
    rows = []
    for row in found.rows:
        cells = [percent(row.accuracy[head]) if head in row.accuracy else "-" for head in heads]
        rows.append(NumberRow(situation(row), cells))
    number_table(console, ["accuracy in % (95 %)", *heads], rows)
    for path, lost in found.leakage.items():
        console.print(
            f"leakage {plain(path)}: {100 * lost:.1f} points lost to an input the label is not about"
        )


def situation(row: Situation) -> str:
    """A row in words: "mr + ct attacked, aimed at any"."""
    if row.kind == "clean":
        return "clean"
    aim = f", aimed at {row.goal}" if row.goal else ""
    return f"{' + '.join(row.modalities)} {row.kind}{aim}"


def draw(found: ModalityTable, path: Path) -> None:
    """Write a PNG: a group of bars a situation, a bar a head, with 95 % intervals."""
    plt = pyplot()
    heads = list(found.rows[0].accuracy)[:MOST]
    figure, axis = plt.subplots(figsize=(2 + 1.1 * len(found.rows), 3.4))
    width = 0.8 / len(heads)
    for number, head in enumerate(heads):
        known = [(place, row.accuracy[head]) for place, row in enumerate(found.rows) if head in row.accuracy]
        places = [place + (number - (len(heads) - 1) / 2) * width for place, _ in known]
        values = np.array([[e.value, e.value - e.low, e.high - e.value] for _, e in known]) * 100
        axis.bar(places, values[:, 0], width * 0.92, label=label(head))
        axis.errorbar(places, values[:, 0], yerr=values[:, 1:].T, fmt="none", color="#333333", linewidth=0.8)
    titles = [
        label(situation(row)).replace(", aimed", ",\naimed").replace(" + ", " +\n") for row in found.rows
    ]
    axis.set_xticks(range(len(found.rows)), titles, fontsize=7, rotation=20)
    axis.set_ylim(0, 100)
    axis.set_ylabel("accuracy (%)")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axis.set_title(label(found.title), fontsize=9)
    figure.tight_layout()
    saved(figure, path)
