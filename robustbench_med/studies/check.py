"""``robmed data check``: what in a data set would make a number on it mean nothing."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from robustbench_med.data.catalog import short_name, source
from robustbench_med.data.check import DataCheck, check
from robustbench_med.reporting import datacheck
from robustbench_med.reporting.figures import drawn
from robustbench_med.util.files import given_path


def check_data(name: str, picture: Path | None = None) -> tuple[DataCheck, Path | None]:
    """Check a data set by its name or path, and draw examples of its classes.

    Args:
        picture: where; by default ``data-check/NAME.png``.

    Returns:
        What was found, and the picture; None when there is nothing to draw.

    Raises:
        UserError: the data cannot even be listed.
    """
    called = short_name(name)
    data = source(name)
    found = check(getattr(data, "name", called), data)
    plain = re.sub(r"[^\w.+-]+", "-", called, flags=re.ASCII).strip("-") or "data"
    path = given_path(picture or Path("data-check") / f"{plain}.png")
    if not found.examples:
        return found, None
    drawn(partial(datacheck.draw, found), path)
    return found, path
