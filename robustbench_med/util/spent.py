"""Where the time of a command went, for who waited for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def counted(spent: dict[str, float], what: str) -> Iterator[None]:
    """Add the seconds inside to ``spent[what]``, whatever ends them."""
    started = time.perf_counter()
    try:
        yield
    finally:
        spent[what] = spent.get(what, 0.0) + time.perf_counter() - started


def in_words(each: Iterable[Mapping[str, float]], since: float) -> str:
    """ "62.1 s: start 4.0, attack and score 57.3, checks 0.8".

    Args:
        each: of every run the seconds by what they were spent on, in order.
        since: ``time.perf_counter()`` when the command started; what nothing else accounts for is its start:
            imports, and loading the data and the net.
    """
    total, spent = time.perf_counter() - since, dict[str, float]()
    for what, seconds in (item for run in each for item in run.items()):
        spent[what] = spent.get(what, 0.0) + seconds
    if not spent:
        return f"{total:.1f} s"
    parts = {"start": total - sum(spent.values()), **spent}
    return f"{total:.1f} s: " + ", ".join(f"{what} {seconds:.1f}" for what, seconds in parts.items())
