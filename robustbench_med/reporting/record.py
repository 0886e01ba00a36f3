"""The record of a run: every number with its interval, and all that is needed to repeat it.

Schema 2. A record is the only truth: CSV, tables, figures and pages are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from robustbench_med.api.data import Modality, Split
from robustbench_med.api.model import FusionModel
from robustbench_med.evaluation.outcomes import Outcomes
from robustbench_med.evaluation.prepare import Prepared
from robustbench_med.measure.accuracy import Accuracy, headline
from robustbench_med.measure.samples import Samples
from robustbench_med.measure.verdict import UNAUDITED, is_sound, refuting
from robustbench_med.models.layout import lies_channels_last
from robustbench_med.models.load import LoadedModel
from robustbench_med.models.named import card_model
from robustbench_med.util.errors import UserError

SCHEMA = 2
PARTS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("run", "headline", "model.label", "model.draws_shared_by", "dataset.name"), str),
    **dict.fromkeys(("dataset.fingerprint", "threat_model.goal", "attack.name", "audit.verdict"), str),
    **dict.fromkeys(("config", "accuracy", "threat_model.budgets"), dict),
    "outcomes": (dict, type(None)),  # None in records that were brought over from schema 1
}
"""What is asked of a record that was read, by its place."""


def record(
    run_id: str,
    prepared: Prepared,
    code: Mapping[str, Any],
    outcomes: Outcomes,
    measured: Mapping[str, Accuracy],
    further: Mapping[str, Any],
    samples: Samples,
    audit: Mapping[str, Any],
    macs: int,
    started: str,
) -> dict[str, Any]:
    """The JSON record of a run.

    Args:
        code: of ``evaluation.identity``.
        further: of ``metrics.describe``.
        macs: multiply-accumulates of one forward pass of a sample.
    """
    plan, claim = prepared.plan, describe_claim(prepared)
    return {
        "schema": SCHEMA,
        "run": run_id,
        "config": claim["config"],
        "model": describe_model(prepared.loaded, plan.model, macs, plan.device),
        **claim,
        "scoring": {"draws": plan.draws, "headline": "mean"},
        "headline": headline(plan.goal),
        "accuracy": {name: asdict(value) for name, value in measured.items()},
        **further,
        "audit": audit,
        "outcomes": samples.as_record(),
        "cost": {
            "forward_passes": outcomes.forward,
            "backward_passes": outcomes.backward,
            "seconds": round(outcomes.seconds, 3),
        },
        "seed": plan.seed,
        "threads": torch.get_num_threads(),
        "code": code,
        "started": started,
    }


def describe_claim(prepared: Prepared) -> dict[str, Any]:
    """What a run is about, which is known before its first pass: samples, threat model and attack."""
    plan = prepared.plan
    attack = {**asdict(plan.attack), "eot": plan.eot, "follows_samples": plan.attack.follows_samples}  # type: ignore[call-overload]
    return {
        "config": dict(prepared.stored),
        "dataset": describe_dataset(plan.split),
        "threat_model": {
            "budgets": {name: budget.as_record() for name, budget in plan.threat.budgets.items()},
            "joint": plan.threat.joint,
            "goal": plan.goal.aim,
            "towards": prepared.config.towards,
            "knowledge": plan.attack.knowledge,
        },
        "attack": {"name": plan.name, **attack},
    }


def require_record(value: Any, where: str) -> dict[str, Any]:
    """A record of this schema.

    Raises:
        UserError: it is none, or one of another schema.
    """
    if not isinstance(value, dict) or "run" not in value:
        raise UserError(f"{where} is no record of robmed run")
    if value.get("schema") != SCHEMA:
        raise UserError(
            f"{where} is of schema {value.get('schema')}, this version reads {SCHEMA}; make it again"
        )
    for dotted, kind in PARTS.items():
        if not isinstance(_at(value, dotted), kind):
            raise UserError(f"{where} is no whole record of robmed run: {dotted!r} is missing or damaged")
    return value


def _at(value: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def describe_model(loaded: LoadedModel, model: FusionModel, macs: int, device: str) -> dict[str, Any]:
    """The model's part of a record."""
    return {
        **card_model(loaded.config),
        "weights": loaded.weights.name if loaded.weights else "in memory",
        "weights_sha256": loaded.weights_sha256,
        "draws_shared_by": model.draws_shared_by,
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": macs,
        "layout": "channels last" if lies_channels_last(model.channels_last, device) else "as given",
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
        "modalities": {m.name: _describe_modality(m, split) for m in info.modalities},
        "heads": {head.name: head.as_record() for head in info.heads},
        "licence": info.licence,
        "citation": info.citation,
        "caveats": list(info.caveats),
    }


def _describe_modality(modality: Modality, split: Split) -> dict[str, Any]:
    return {
        "kind": modality.kind,
        "shape": list(modality.shape),
        "stored_as": str(split.arrays[modality.name].dtype),
        "low": np.asarray(modality.low).ravel().tolist() if np.ndim(modality.low) else float(modality.low),
        "high": np.asarray(modality.high).ravel().tolist()
        if np.ndim(modality.high)
        else float(modality.high),
        **({"features": list(modality.features)} if modality.features else {}),
    }


def ensemble_record(
    run_id: str,
    members: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Accuracy],
    further: Mapping[str, Any],
    samples: Samples,
) -> dict[str, Any]:
    """The record of the worst case over the runs of ``members``, whose own records it names.

    All that the members share (model, data, threat model, scoring) is theirs; costs are summed.
    """
    first, names = members[0], [m["attack"]["name"] for m in members]
    knowledge = sorted({m["threat_model"]["knowledge"] for m in members})
    follows = all(m["attack"]["follows_samples"] for m in members)
    attack = {"name": "ensemble", "members": " + ".join(names), "eot": first["attack"]["eot"]}
    return {
        **first,
        "run": run_id,
        "config": {**first["config"], "attack": ",".join(names), "attack_options": {}},
        "threat_model": {**first["threat_model"], "knowledge": ", ".join(knowledge)},
        "attack": {**attack, "follows_samples": follows},
        "members": [m["run"] for m in members],
        "member_attacks": [m["attack"] for m in members],
        "accuracy": {name: asdict(value) for name, value in measured.items()},
        **further,
        "audit": {"verdict": _verdict([m["audit"]["verdict"] for m in members]), "findings": []},
        "outcomes": samples.as_record(),
        "cost": {key: round(sum(m["cost"][key] for m in members), 3) for key in first["cost"]},
    }


def refuting_record(
    run_id: str,
    before: Mapping[str, Any],
    refutes: Mapping[str, Any],
    measured: Mapping[str, Accuracy],
    further: Mapping[str, Any],
    samples: Samples,
    code: Mapping[str, Any],
    started: str,
    seconds: float,
) -> dict[str, Any]:
    """The record of somebody's inputs that leave less than the run of ``before`` did.

    Model, data, threat model and clean numbers are those of the run; nothing was attacked here.

    Args:
        refutes: run, finder, inputs_sha256, samples (handed in), stronger (lower than the record).
        code: that scored them.
    """
    gone = ("migrated", "eot_curve", "adversarial", "members")
    attack = {
        "name": "submission",
        "finder": refutes["finder"],
        "refutes": before["run"],
        "against": before["attack"]["name"],
        "samples": refutes["samples"],
    }
    return {
        **{name: value for name, value in before.items() if name not in gone},
        "run": run_id,
        "threat_model": {**before["threat_model"], "knowledge": "not known"},
        "attack": {**attack, "eot": 0, "follows_samples": None},
        "accuracy": {name: asdict(value) for name, value in measured.items()},
        **further,
        "audit": {"verdict": refuting(before["run"], refutes["finder"]), "findings": []},
        "outcomes": samples.as_record(),
        "cost": {"forward_passes": 0, "backward_passes": 0, "seconds": round(seconds, 3)},
        "code": dict(code),
        "started": started,
        "refutes": dict(refutes),
    }


def _verdict(members: Sequence[str]) -> str:
    """Of a worst case: it is at least as low as the member that is trusted most."""
    sound = next((verdict for verdict in members if is_sound(verdict)), None)
    if sound is not None:
        return sound
    return UNAUDITED if UNAUDITED in members else members[0]
