"""What is right, and the accuracies that follow with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.batches import Plan
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure import statistics
from robustbench_med.measure.statistics import Estimate, Scored

ANY = "any head"


ALL = "all heads"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a head (or of all of them at once) before and after the attack.

    Attributes:
        clean, robust: mean over samples and scoring draws, with 95 % intervals.
        majority: robust accuracy of the vote over so many draws.
        worst_of_draws: share of samples right in each of so many draws (the persistent attacker).
    """

    clean: Estimate
    robust: Estimate
    majority: Estimate
    worst_of_draws: Estimate

    @classmethod
    def from_record(cls, stored: Mapping[str, Mapping[str, Any]]) -> Accuracy:
        """Read back what ``record`` wrote under "accuracy"."""
        return cls(**{kind: Estimate(**values) for kind, values in stored.items()})


def accuracies(outcomes: Outcomes, plan: Plan) -> dict[str, Accuracy]:
    """Per task, and under ANY the samples on which no head is wrong (the goal "any").

    With the goal "all" there is ALL too: the samples on which not every head is wrong.
    """
    goal = plan.goal
    clean = correct(outcomes.clean, outcomes.labels, goal)
    robust = correct(outcomes.adversarial, outcomes.labels, goal)
    # One-hot answers: the vote is for the class named most often, in a tie for the lower one.
    counts = {task: np.eye(z.shape[2])[z.argmax(2)] for task, z in outcomes.adversarial.items()}
    shared_by = plan.model.draws_shared_by

    def right_by_vote(name: str, draws: NDArray[np.int64]) -> NDArray[np.float64]:
        votes = {t: counts[t][draws].sum(0).argmax(1)[None] == y for t, y in outcomes.labels.items()}
        return np.asarray(_with_goals(votes, goal)[name][0], np.float64)

    def summary(name: str) -> Accuracy:
        vote = Scored(partial(right_by_vote, name), len(robust[name]), shared_by)
        kinds = (
            Scored.mean(clean[name], shared_by),
            Scored.mean(robust[name], shared_by),
            vote,
            Scored.every(robust[name], shared_by),
        )
        return Accuracy(*(statistics.estimate(kind, outcomes.groups, outcomes.batches) for kind in kinds))

    return {name: summary(name) for name in clean}


def correct(
    logits: Mapping[str, NDArray[np.float32]], labels: Mapping[str, NDArray[np.int64]], goal: Goal
) -> dict[str, NDArray[np.bool_]]:
    """What is right in every draw, (R, N) each: per task, under ANY, and with the goal "all" ALL."""
    return _with_goals({t: logits[t].argmax(2) == y for t, y in labels.items()}, goal)


def _with_goals(per_task: dict[str, NDArray[np.bool_]], goal: Goal) -> dict[str, NDArray[np.bool_]]:
    heads = list(per_task.values())
    combined = {ANY: np.all(heads, axis=0)} | ({ALL: np.any(heads, axis=0)} if goal.head == "all" else {})
    return per_task | combined


def headline(goal: Goal) -> str:
    """The accuracy that the attack aimed at, as a key of ``accuracies``."""
    return {"any": ANY, "all": ALL}.get(goal.head, goal.head)
