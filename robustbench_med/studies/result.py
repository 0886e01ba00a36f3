"""What a run produced, for who called it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustbench_med.measure.accuracy import Accuracy

OnRecord = Callable[[Mapping[str, Any]], None]
"""Is given every record as soon as it is on disk, with the run's folder under ``folder``."""


@dataclass(frozen=True)
class Result:
    """What a run produced.

    Attributes:
        accuracy: by head, question, and all heads together (``measure.accuracy.EVERY``).
        record: the JSON record, as written to ``folder``.
        folder: record.json, outcomes.npz, picture.png (an ensemble has no picture of its own), and
            adversarial.npz if that was asked for.
        leaderboard: the CSV that holds the row.
        inputs: the file of the adversarial inputs, if they were to be kept.
        spent: seconds by what they were spent on; nothing of what was read back, or made by workers.
    """

    accuracy: Mapping[str, Accuracy]
    record: Mapping[str, Any]
    folder: Path
    leaderboard: Path
    inputs: Path | None = None
    spent: Mapping[str, float] = field(default_factory=dict)
