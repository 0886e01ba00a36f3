"""What imports check alike: options, missing files, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustbench_med.util.errors import UserError


def int_option(options: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """An integer option given as a number or as text (UserError outside ``low`` to ``high``)."""
    value = options.get(name, default)
    text = str(value)[:80]
    if isinstance(value, bool) or not text.isdecimal() or not low <= int(text) <= high:
        raise UserError(f"option {name}={text!r}: give a whole number from {low} to {high}")
    return int(text)


def refuse_unknown(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise UserError for an option that the data set does not have."""
    for name in options:
        if name not in known:
            raise UserError(f"no import option {name!r}; there are {', '.join(known)}")


def require_files(paths: Sequence[Path], what: str) -> None:
    """Raise UserError naming the first file that is missing and how many are."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{missing[0]} is missing ({len(missing)} of {len(paths)} {what} are); download them again"
        )


def compare_counts(what: str, found: Mapping[str, int], published: Mapping[str, int]) -> tuple[str, ...]:
    """A line that says how a download differs from the publisher's counts; none if it does not."""
    different = [
        f"{name} {found.get(name, 0)} of {count}"
        for name, count in published.items()
        if found.get(name, 0) != count
    ]
    if not different:
        return ()
    total, expected = sum(found.values()), sum(published.values())
    differences = ", ".join(different)
    return (f"partial or changed download: {total} of the publisher's {expected} {what} ({differences})",)
