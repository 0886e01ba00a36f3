"""Two runs on the same samples, compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_med.measure.samples import Samples
from robustbench_med.measure.statistics import Difference, paired_difference
from robustbench_med.measure.verdict import UNAUDITED, is_sound
from robustbench_med.util.errors import UserError

MARGIN = 0.02
SAME: Mapping[str, str] = {
    "dataset.name": "data set",
    "dataset.fingerprint": "values or samples",
    "threat_model.budgets": "radii or norms",
    "threat_model.joint": "radii or norms",
    "threat_model.goal": "goal",
    "threat_model.towards": "goal",
}


@dataclass(frozen=True)
class Comparison:
    """How a new run differs from a baseline; shares in [-1, 1], positive when the new one is higher.

    Attributes:
        clean, robust: of what the attacks aimed at.
        attacks: the attack of each with its options; the gate wants them equal.
        verdict: of the audit of the new run.
        margin: how far robust accuracy may fall, or rise, without question.
    """

    models: tuple[str, str]
    attacks: tuple[Mapping[str, Any], Mapping[str, Any]]
    samples: int
    headline: str
    clean: Difference
    robust: Difference
    verdict: str
    margin: float

    @property
    def complaints(self) -> tuple[str, ...]:
        """Why the gate does not let the new run pass; () when it does.

        A fall must be excluded (non-inferiority), and a rise that is certain must be looked at: better
        robustness by accident is rarer than an attack that has stopped working.
        """
        out = []
        if self.attacks[0] != self.attacks[1]:
            out.append("the attacks differ, so a difference says nothing about the models")
        if not is_sound(self.verdict) and self.verdict != UNAUDITED:
            out.append(f"the audit of the new run: {self.verdict}")
        if self.robust.low <= -self.margin:
            out.append(f"robust accuracy may have fallen by {-100 * self.robust.low:.1f} points")
        if self.robust.low > self.margin:
            out.append(
                f"robust accuracy rose by at least {100 * self.robust.low:.1f} points; is the attack whole?"
            )
        return tuple(out)


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
    for field, what in SAME.items():
        values = [_at(record, field) for record in records]
        if values[0] != values[1]:
            raise UserError(f"{names[0]} and {names[1]} cannot be compared: other {what} ({field})")
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
        attacks=(_attack(records[0]), _attack(records[1])),
        verdict=records[1].get("audit", {}).get("verdict", UNAUDITED),
        samples=len(before.ids),
        headline=key,
        clean=difference("clean"),
        robust=difference("robust"),
        margin=margin,
    )


def _attack(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attack as it was asked for: how many draws "auto" settles on is the model's doing."""
    eot = record.get("config", {}).get("eot", record["attack"].get("eot"))
    return {**record["attack"], "eot": eot}


def _at(record: Mapping[str, Any], dotted: str) -> Any:
    section, name = dotted.split(".")
    return record[section].get(name)
