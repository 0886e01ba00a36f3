"""Two runs on the same samples, compared in pairs; and the gate that continuous integration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure.accuracy import correct
from robustbench_med.measure.statistics import Difference, Scored, paired_difference
from robustbench_med.measure.verdict import SOUND, UNAUDITED
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import read_json

MARGIN = 0.02
SAME: Mapping[str, str] = {
    "dataset.name": "data set",
    "dataset.fingerprint": "images or samples",
    "threat_model.budgets": "radii or norms",
    "threat_model.joint": "radii or norms",
    "threat_model.goal": "goal",
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
        if self.verdict not in (SOUND, UNAUDITED):
            out.append(f"the audit of the new run failed: {self.verdict}")
        if self.robust.low <= -self.margin:
            out.append(f"robust accuracy may have fallen by {-100 * self.robust.low:.1f} points")
        if self.robust.low > self.margin:
            out.append(
                f"robust accuracy rose by at least {100 * self.robust.low:.1f} points; is the attack whole?"
            )
        return tuple(out)


def compare(baseline: Path, new: Path, margin: float = MARGIN) -> Comparison:
    """Compare two run folders.

    Args:
        baseline, new: folders of ``robmed run`` (record.json and outcomes.npz).
        margin: a share in (0, 1).

    Raises:
        UserError: a folder is no run's, or the runs are of other samples or other threat models.
    """
    if not 0 < margin < 1:
        raise UserError(f"margin is {margin:g}; it must lie between 0 and 1, such as 0.02 for two points")
    records = [_record(folder) for folder in (baseline, new)]
    for field, what in SAME.items():
        values = [_at(record, field) for record in records]
        if values[0] != values[1]:
            raise UserError(f"{baseline} and {new} cannot be compared: other {what} ({field})")
    outcomes = [Outcomes.load(folder / "outcomes.npz") for folder in (baseline, new)]
    if outcomes[0].ids != outcomes[1].ids:
        raise UserError(f"{baseline} and {new} cannot be compared: other samples or another order")
    shared = "batch" in [record["model"]["draws_shared_by"] for record in records]
    if shared and (outcomes[0].batches != outcomes[1].batches).any():
        raise UserError(f"{baseline} and {new} share draws in other batches; give both one --batch-size")
    key, goal = records[0]["headline"], Goal(records[0]["threat_model"]["goal"])

    def scored(kind: str, number: int) -> Scored:
        run = outcomes[number]
        right = correct(getattr(run, kind), run.labels, goal)[key]
        return Scored.mean(right, records[number]["model"]["draws_shared_by"])

    def difference(kind: str) -> Difference:
        first = outcomes[0]
        return paired_difference(scored(kind, 1), scored(kind, 0), first.groups, first.batches)

    return Comparison(
        models=(records[0]["model"]["label"], records[1]["model"]["label"]),
        attacks=(_attack(records[0]), _attack(records[1])),
        verdict=records[1].get("audit", {}).get("verdict", UNAUDITED),
        samples=len(outcomes[0].ids),
        headline=key,
        clean=difference("clean"),
        robust=difference("adversarial"),
        margin=margin,
    )


def _attack(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attack as it was asked for: how many draws "auto" settles on is the model's doing."""
    eot = record.get("config", {}).get("eot", record["attack"].get("eot"))
    return {**record["attack"], "eot": eot}


def _record(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "record.json")
    wanted = ("model", "dataset", "threat_model", "attack", "headline")
    if not isinstance(record, dict) or any(name not in record for name in wanted):
        raise UserError(f"{folder / 'record.json'} is no record of robmed run")
    return record


def _at(record: Mapping[str, Any], dotted: str) -> Any:
    section, name = dotted.split(".")
    return record[section].get(name)
