"""The record of a run: every number with its interval, and all that is needed to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from robustbench_med.api.data import Split
from robustbench_med.evaluation.batches import Plan
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.measure.accuracy import Accuracy, headline
from robustbench_med.measure.verdict import SOUND, UNAUDITED
from robustbench_med.models.load import LoadedModel, card_model, multiply_accumulates
from robustbench_med.util.files import sha256_json
from robustbench_med.util.versions import versions


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
