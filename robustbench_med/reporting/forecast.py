"""What a suite will cost, printed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from robustbench_med.reporting.text import plain


class Run(Protocol):
    """See ``studies.forecast.Forecast``."""

    @property
    def dataset(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def column(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def samples(self) -> int: ...
    @property
    def passes(self) -> float | None: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def memory(self) -> int | None: ...


def show(
    runs: Sequence[Run], seconds: float, memory: int, left_out: Sequence[str], workers: int, console: Any
) -> None:
    """Print a row a run, and what all of them cost together.

    Args:
        seconds: at most, of one worker.
        memory: bytes of a worker.
        workers: 0 where this process makes them itself.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("data", "model", "run", "state"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "passes", "minutes", "memory"):
        table.add_column(name, justify="right")
    for run in runs:
        cells = (run.dataset, run.model, run.column, run.state, str(run.samples), *_numbers(run))
        table.add_row(*map(plain, cells))
    console.print(table)
    for line in left_out:
        console.print(plain(f"left out: {line}"))
    making = [run for run in runs if run.state == "to make"]
    console.print(plain(_together(len(making), len(runs), seconds, memory, workers)))
    unknown = sum(run.seconds is None for run in making)
    if unknown:
        console.print(f"{unknown} of them could not be estimated")


def _numbers(run: Run) -> tuple[str, str, str]:
    passes = "" if run.passes is None else f"≤ {run.passes:,.0f}"
    minutes = "" if run.seconds is None else f"≤ {_minutes(run.seconds)}"
    return passes, minutes, "" if run.memory is None else f"{run.memory / 1e9:.1f} GB"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f}" if seconds < 6000 else f"{seconds / 60:,.0f}"


def _together(making: int, every: int, seconds: float, memory: int, workers: int) -> str:
    if not making:
        return f"nothing to make: all {every} are there"
    said = f"to make: {making} of {every} runs, at most {_minutes(seconds)} minutes"
    if workers > 1:
        said += f", {_minutes(seconds / workers)} with {workers} workers"
    each = f"{memory / 1e9:.1f} GB"
    return (
        f"{said}; {each} a worker, {memory * workers / 1e9:.1f} GB in all" if workers else f"{said}; {each}"
    )
