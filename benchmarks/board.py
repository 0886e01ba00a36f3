"""How a leaderboard grows: the time of reading, ranking and showing it, and of appending or replacing a row.

Ratios within one run, so that a busy machine says nothing: ten times the rows may cost at most thirty times
the time (caches take their share; what grows with the square of the rows takes a hundred). Exits with 1 when
one costs more.

    python -m benchmarks.board
"""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from robustbench_med.measure.ranking import boards
from robustbench_med.reporting import board, leaderboard

SMALL, LARGE, LIMIT = 10_000, 100_000, 30.0


def rows(count: int, nets: int) -> list[dict[str, str]]:
    """Rows of one board, each net in turn."""
    empty = dict.fromkeys(leaderboard.COLUMNS, "0.5000")
    return [
        empty
        | {"dataset": "d", "model": f"net{i % nets}", "run": f"{i:012x}", "attack": "pgd"}
        | {"robust": f"{i * 7919 % 10_000 / 10_000:.4f}", "verdict": "unaudited" if i % 3 == 0 else "sound"}
        for i in range(count)
    ]


def seconds(action: Callable[[], object]) -> float:
    """CPU time, the best of three."""
    times = []
    for _ in range(3):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def measured(path: Path, count: int, nets: int) -> dict[str, float]:
    """Seconds by what is done with a file of ``count`` rows."""
    made = rows(count, nets)
    leaderboard.write(path, made)
    found = boards(made)

    numbers = itertools.count()

    def show() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            board.show(found)

    return {
        "read": seconds(lambda: leaderboard.read(path)),
        "rank": seconds(lambda: boards(made)),
        "show": seconds(show),
        "append": seconds(lambda: leaderboard.append(path, made[0] | {"run": f"new {next(numbers)}"})),
        "replace": seconds(lambda: leaderboard.append(path, made[0])),
    }


def main() -> int:
    """Print a line an action; 1 when one grows faster than the rows."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "board.csv"
        for title, nets in (("100 nets", (100, 100)), ("a net a row", (SMALL, LARGE))):
            small, large = (measured(path, n, k) for n, k in zip((SMALL, LARGE), nets, strict=True))
            for action in small:
                ratio = large[action] / max(small[action], 1e-3)
                worst = max(worst, ratio)
                figures = f"{small[action]:7.3f} s  {large[action]:7.3f} s  x{ratio:.1f}"
                print(f"{title:12} {action:7} {figures}")
    print(f"worst growth x{worst:.1f} for x{LARGE // SMALL} rows, at most x{LIMIT:g} allowed")
    return 1 if worst > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
