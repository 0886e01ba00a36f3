"""The record of a run: every number with its interval, and all that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med import statistics
from robustbench_med.evaluation import Outcomes, Plan
from robustbench_med.models.zoo import LoadedModel, card_model
from robustbench_med.statistics import Estimate
from robustbench_med.versions import versions

ANY = "any head"
ALL = "all heads"


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a head (or of all of them at once) before and after the attack.

    Attributes:
        clean, robust: mean over samples and scoring draws, with 95 % intervals.
        majority: robust accuracy of the vote over the draws.
        worst_of_draws: share of samples right in every draw (the persistent attacker).
    """

    clean: Estimate
    robust: Estimate
    majority: float
    worst_of_draws: float


def accuracies(outcomes: Outcomes, plan: Plan) -> dict[str, Accuracy]:
    """Per task, and under ANY the samples on which no head is wrong (the goal "any").

    With the goal "all" there is ALL too: the samples on which not every head is wrong.
    """
    clean = {t: outcomes.clean[t].argmax(2) == y for t, y in outcomes.labels.items()}
    robust = {t: outcomes.adversarial[t].argmax(2) == y for t, y in outcomes.labels.items()}
    votes = {t: _vote(outcomes.adversarial[t]) == y for t, y in outcomes.labels.items()}
    groups = {t: (clean[t], robust[t], votes[t]) for t in clean}
    tables = (clean, robust, votes)
    groups[ANY] = tuple(np.all(list(t.values()), axis=0) for t in tables)
    if plan.goal.head == "all":
        groups[ALL] = tuple(np.any(list(t.values()), axis=0) for t in tables)
    return {name: _accuracy(*arrays, outcomes, plan) for name, arrays in groups.items()}


def headline(plan: Plan) -> str:
    """The accuracy that the attack aimed at: its goal, as a key of ``accuracies``."""
    return {"any": ANY, "all": ALL}.get(plan.goal.head, plan.goal.head)


def _accuracy(
    clean: NDArray[np.bool_],
    robust: NDArray[np.bool_],
    vote: NDArray[np.bool_],
    outcomes: Outcomes,
    plan: Plan,
) -> Accuracy:
    def estimate(correct: NDArray[np.bool_]) -> Estimate:
        shared_by = plan.model.draws_shared_by
        return statistics.accuracy(correct, outcomes.groups, outcomes.batches, shared_by, plan.seed)

    return Accuracy(estimate(clean), estimate(robust), float(vote.mean()), float(robust.all(0).mean()))


def _vote(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Most frequent class over the draws; ties go to the lower class. (R, N, K) to (N,)."""
    votes = np.eye(logits.shape[2])[logits.argmax(2)].sum(0)
    winner: NDArray[np.int64] = votes.argmax(1)
    return winner


def record(
    run_id: str,
    config: Mapping[str, Any],
    plan: Plan,
    loaded: LoadedModel,
    outcomes: Outcomes,
    measured: Mapping[str, Accuracy],
    started: str,
) -> dict[str, Any]:
    """The JSON record of a run."""
    info = plan.split.info
    return {
        "run": run_id,
        "config": config,
        "model": {
            **card_model(loaded.config),
            "weights": loaded.weights.name,
            "weights_sha256": loaded.weights_sha256,
            "draws_shared_by": plan.model.draws_shared_by,
            "parameters": sum(p.numel() for p in plan.model.parameters()),
            "caveats": list(loaded.caveats),
        },
        "dataset": {
            "name": info.name,
            "title": info.title,
            "synthetic": info.synthetic,
            "pairing": info.pairing,
            "split": plan.split.name,
            "samples": len(plan.split),
            "fingerprint": plan.split.fingerprint,
            "licence": info.licence,
            "citation": info.citation,
            "caveats": list(info.caveats),
        },
        "threat_model": {
            "budgets": {name: asdict(budget) for name, budget in plan.threat.budgets.items()},
            "goal": plan.goal.head,
            "knowledge": plan.attack.knowledge,
        },
        "attack": {"name": plan.name, **asdict(plan.attack), "eot": plan.eot},  # type: ignore[call-overload]
        "scoring": {"draws": plan.draws, "headline": "mean"},
        "headline": headline(plan),
        "accuracy": {name: asdict(value) for name, value in measured.items()},
        "cost": {
            "forward_passes": outcomes.forward,
            "backward_passes": outcomes.backward,
            "seconds": round(outcomes.seconds, 3),
        },
        "seed": plan.seed,
        "versions": versions(),
        "started": started,
    }
