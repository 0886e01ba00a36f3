"""The record of a run: every number with its interval, and all that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import Split
from robustbench_med.api.objective import Goal
from robustbench_med.evaluation.batches import Outcomes, Plan
from robustbench_med.measure import statistics
from robustbench_med.measure.statistics import Estimate, Scored
from robustbench_med.models.load import LoadedModel, card_model, multiply_accumulates
from robustbench_med.util.files import sha256_json
from robustbench_med.util.versions import versions

SOUND = "sound"
UNAUDITED = "unaudited"
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


def identify(
    config: Mapping[str, Any], model: Mapping[str, Any], weights_sha256: str, fingerprint: str, release: str
) -> str:
    """The name of a run: a hash of all that decides its numbers, so that equal runs share it.

    Args:
        config: with every default filled in, less what changes no number.
        model: of ``card_model``: a model file may change while its name and weights stay.
        fingerprint: of the samples.
        release: version of this package.
    """
    return sha256_json([release, config, model, weights_sha256, fingerprint])[:12]


def record(
    run_id: str,
    config: Mapping[str, Any],
    plan: Plan,
    loaded: LoadedModel,
    outcomes: Outcomes,
    measured: Mapping[str, Accuracy],
    further: Mapping[str, Any],
    audit: Mapping[str, Any],
    started: str,
) -> dict[str, Any]:
    """The JSON record of a run; ``further`` is of ``metrics.describe``."""
    return {
        "run": run_id,
        "config": config,
        "model": describe_model(loaded, plan.split),
        "dataset": describe_dataset(plan.split),
        "threat_model": {
            "budgets": {name: asdict(budget) for name, budget in plan.threat.budgets.items()},
            "joint": plan.threat.joint,
            "goal": plan.goal.head,
            "knowledge": plan.attack.knowledge,
        },
        "attack": {"name": plan.name, **asdict(plan.attack), "eot": plan.eot},  # type: ignore[call-overload]
        "scoring": {"draws": plan.draws, "headline": "mean"},
        "headline": headline(plan.goal),
        "accuracy": {name: asdict(value) for name, value in measured.items()},
        **further,
        "audit": audit,
        "cost": {
            "forward_passes": outcomes.forward,
            "backward_passes": outcomes.backward,
            "seconds": round(outcomes.seconds, 3),
        },
        "seed": plan.seed,
        "versions": versions(),
        "started": started,
    }


def describe_model(loaded: LoadedModel, split: Split) -> dict[str, Any]:
    """The model's part of a record; ``macs`` are multiply-accumulates of one forward pass of a sample."""
    return {
        **card_model(loaded.config),
        "weights": loaded.weights.name,
        "weights_sha256": loaded.weights_sha256,
        "draws_shared_by": loaded.model.draws_shared_by,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "macs": multiply_accumulates(loaded.model, split.info),
        "caveats": list(loaded.caveats),
    }


def describe_dataset(split: Split) -> dict[str, Any]:
    """The data set's part of a record."""
    info = split.info
    return {
        "name": info.name,
        "title": info.title,
        "synthetic": info.synthetic,
        "pairing": info.pairing,
        "split": split.name,
        "samples": len(split),
        "fingerprint": split.fingerprint,
        "licence": info.licence,
        "citation": info.citation,
        "caveats": list(info.caveats),
    }


def ensemble_record(
    run_id: str,
    members: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Accuracy],
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """The record of the worst case over the runs of ``members``, whose own records it names.

    All that the members share (model, data, threat model, scoring) is theirs; costs are summed.
    """
    first, names = members[0], [m["attack"]["name"] for m in members]
    knowledge = sorted({m["threat_model"]["knowledge"] for m in members})
    return {
        **first,
        "run": run_id,
        "config": {**first["config"], "attack": ",".join(names), "attack_options": {}},
        "threat_model": {**first["threat_model"], "knowledge": ", ".join(knowledge)},
        "attack": {"name": "ensemble", "members": " + ".join(names), "eot": first["attack"]["eot"]},
        "members": [m["run"] for m in members],
        "accuracy": {name: asdict(value) for name, value in measured.items()},
        **further,
        "audit": {"verdict": _verdict([m["audit"]["verdict"] for m in members]), "findings": []},
        "cost": {key: round(sum(m["cost"][key] for m in members), 3) for key in first["cost"]},
    }


def _verdict(members: Sequence[str]) -> str:
    """Of a worst case: it is at least as low as the member that is trusted most."""
    for best in (SOUND, UNAUDITED):
        if best in members:
            return best
    return ", ".join(dict.fromkeys(check for verdict in members for check in verdict.split(", ")))
