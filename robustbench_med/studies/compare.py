"""``robmed compare``: two runs on disk, in pairs."""

from __future__ import annotations

from pathlib import Path

from robustbench_med.measure.compare import MARGIN, Comparison, compare
from robustbench_med.studies.records import read_record


def compare_runs(baseline: Path, new: Path, margin: float = MARGIN) -> Comparison:
    """Compare two runs by their folders or records; see ``studies.gate`` for the gate.

    Args:
        margin: a share in (0, 1).

    Raises:
        UserError: a folder is no run's, or the runs are of other samples or other threat models.
    """
    return compare((read_record(baseline), read_record(new)), (str(baseline), str(new)), margin)
