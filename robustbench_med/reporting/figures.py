"""Matplotlib, imported when it is needed and without a display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustbench_med.util.files import replacing


def pyplot() -> Any:
    """``matplotlib.pyplot`` on the backend that writes files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["text.parse_math"] = False  # names are data: a dollar sign in one starts no formula
    from matplotlib import pyplot as plt

    return plt


def saved(figure: Any, path: Path, dpi: int = 110) -> None:
    """Write a figure, whole or not at all, and forget it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
    pyplot().close(figure)
