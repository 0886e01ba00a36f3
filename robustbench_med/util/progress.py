"""The progress bar of everything that takes long."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from robustbench_med.util.terminal import visible


class _Plain(Progress):
    """Titles are data: names of models and attacks, not markup."""

    def add_task(self, description: str, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        """See ``Progress``."""
        return super().add_task(visible(description), *args, **kwargs)  # type: ignore[arg-type]

    def update(self, task_id, *args: object, **kwargs: object) -> None:  # type: ignore[no-untyped-def]
        """See ``Progress``."""
        if isinstance(kwargs.get("description"), str):
            kwargs["description"] = visible(kwargs["description"])
        super().update(task_id, *args, **kwargs)  # type: ignore[arg-type]


def progress_bar(shown: bool = True) -> Progress:
    """A bar on standard error if that is a terminal; a log file gets errors only.

    Args:
        shown: not where another bar shows the same.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    return _Plain(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    )
