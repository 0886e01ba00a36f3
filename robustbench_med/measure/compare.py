"""Two runs on the same samples, compared in pairs: what they say of patients like these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_med.measure.same import require_same
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.statistics import Difference, paired_difference
from robustbench_med.util.errors import UserError

MARGIN = 0.02


@dataclass(frozen=True)
class Comparison:
    """How a new run differs from a baseline; shares in [-1, 1], positive when the new one is higher.

    Attributes:
        clean, robust: of what the attacks aimed at.
        margin: a fall by so much is what ``is_no_worse`` excludes.
    """

    models: tuple[str, str]
    samples: int
    headline: str
    clean: Difference
    robust: Difference
    margin: float

    @property
    def is_no_worse(self) -> bool:
        """Whether a fall by the margin is excluded on patients like these (non-inferiority)."""
        return self.robust.low > -self.margin


def compare(
    records: tuple[Mapping[str, Any], Mapping[str, Any]], names: tuple[str, str], margin: float
) -> Comparison:
    """Compare two records of ``robmed run``, the baseline first.

    Args:
        names: how errors call the two.
        margin: a share in (0, 1).

    Raises:
        UserError: runs of other samples or other threat models.
    """
    if not 0 < margin < 1:
        raise UserError(f"margin is {margin:g}; it must lie between 0 and 1, such as 0.02 for two points")
    require_same(*records, names)
    before, after = (Samples.from_record(r, n) for r, n in zip(records, names, strict=True))
    if before.ids != after.ids:
        raise UserError(f"{names[0]} and {names[1]} cannot be compared: other samples or another order")
    shared = "batch" in (before.draws_shared_by, after.draws_shared_by)
    if shared and (before.batches != after.batches).any():
        raise UserError(f"{names[0]} and {names[1]} share draws in other batches; give both one --batch-size")
    key = records[0]["headline"]

    def difference(kind: str) -> Difference:
        scored = after.scored(kind, key), before.scored(kind, key)
        return paired_difference(*scored, before.groups, before.batches)

    return Comparison(
        models=(records[0]["model"]["label"], records[1]["model"]["label"]),
        samples=len(before.ids),
        headline=key,
        clean=difference("clean"),
        robust=difference("robust"),
        margin=margin,
    )
