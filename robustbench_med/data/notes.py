"""What an import did to single files: every one in a list, and counted by reason for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_LINES = 20
MOST_NAMES = 5


@dataclass(frozen=True)
class Note:
    """What was done to a file.

    Attributes:
        file: the name under which it is known.
        what: such as "16 bits, divided by 257"; equal words are counted together.
    """

    file: str
    what: str


def summary(part: str, notes: Sequence[Note]) -> tuple[str, ...]:
    """A line for each thing that was done: how often, and the first file; at most 20 lines.

    Args:
        part: what the files belong to, such as "MRI files".
    """
    files: dict[str, list[str]] = {}
    for note in notes:
        files.setdefault(note.what, []).append(note.file)
    lines = [
        f"{what}: {len(names)} {part} ({'' if len(names) == 1 else 'first: '}{names[0]})"
        for what, names in files.items()
    ]
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [f"{len(lines) - MOST_LINES + 1} more things were done to {part}"]
    return tuple(lines)


def few(names: Sequence[str]) -> str:
    """Names in a line; of many the first five and how many more there are."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
