"""The progress bar of everything that takes long, and what is said beside results."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class _Escaped(Progress):
    """Titles are data: names of models and attacks, not markup."""

    def add_task(self, description: str, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        """See ``Progress``."""
        return super().add_task(escape(description), *args, **kwargs)  # type: ignore[arg-type]

    def update(self, task_id, *args: object, **kwargs: object) -> None:  # type: ignore[no-untyped-def]
        """See ``Progress``."""
        if isinstance(kwargs.get("description"), str):
            kwargs["description"] = escape(str(kwargs["description"]))
        super().update(task_id, *args, **kwargs)  # type: ignore[arg-type]


def progress_bar() -> Progress:
    """A bar on standard error if that is a terminal; a log file gets errors only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return _Escaped(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def warn(message: str) -> None:
    """One line on standard error that stops nothing."""
    print(f"robmed: warning: {message}", file=sys.stderr)
