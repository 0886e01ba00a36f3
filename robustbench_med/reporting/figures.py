"""Matplotlib, imported when it is needed and without a display."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustbench_med.util.files import replacing
from robustbench_med.util.terminal import visible, warn


def pyplot() -> Any:
    """``matplotlib.pyplot`` on the backend that writes files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False  # names are data: a dollar sign in one starts no formula
    from matplotlib import pyplot as plt

    return plt


def drawn(draw: Callable[[Path], None], path: Path) -> None:
    """Draw a figure of what is finished and on disk: one that fails costs a warning, nothing else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of letters that the font does not have
            draw(path)
    except Exception as error:  # whatever a drawing library does, the numbers stand
        warn(f"{path} could not be drawn ({type(error).__name__}: {error})")


def label(text: object) -> str:
    """A name as a figure shows it; matplotlib leaves those out that start with an underscore."""
    said = visible(text, keep="\n")
    return f" {said}" if said.startswith("_") else said


def saved(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a figure, whole or not at all, and forget it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
    pyplot().close(figure)


# Where a name may stand, in points from what it names: beside it, and ever further above and below.
ACROSS, AWAY = (6, -6, 18, -18), range(3, 124, 6)
PLACES = [(across, sign * away) for away in AWAY for sign in (1, -1) for across in ACROSS]


def spread(axis: Any, points: Mapping[str, tuple[float, float]], size: float) -> None:
    """Write names beside points so that none covers another, each with a line to its point.

    Args:
        points: by name, in data; the limits of the axes are as they will be.
        size: of letters, in points.
    """
    from matplotlib.transforms import Bbox

    renderer, at = axis.figure.canvas.get_renderer(), axis.transData.transform(list(points.values()))
    frame, taken = axis.get_window_extent(renderer), [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in at]
    for name, point in sorted(points.items(), key=lambda each: each[1]):
        how = {"textcoords": "offset points", "fontsize": size, "va": "center"}
        written = axis.annotate(name, point, PLACES[0], **how)
        for across, up in PLACES:
            written.set(position=(across, up), horizontalalignment="left" if across > 0 else "right")
            box = written.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
            if inside and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)
        line = {"arrowstyle": "-", "lw": 0.5, "color": "#888888", "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", point, (across, up), textcoords="offset points", arrowprops=line)
