"""Matplotlib, imported when it is needed and without a display."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
