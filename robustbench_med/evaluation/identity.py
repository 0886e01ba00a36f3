"""What a run is: a hash of everything that decides its number, so that equal runs share a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustbench_med.api.attack import Attack
from robustbench_med.api.model import FusionModel
from robustbench_med.data.catalog import source_modules
from robustbench_med.evaluation.attacks import ATTACKS
from robustbench_med.evaluation.prepare import Prepared
from robustbench_med.models.named import DEFENSES, ModelConfig, card_model
from robustbench_med.util.code import HARNESS, checkout, source_hashes
from robustbench_med.util.files import sha256_json
from robustbench_med.util.seeding import derive
from robustbench_med.util.versions import versions

# The rooms that turn a config into outcomes and outcomes into numbers.
ROOTS = (
    "robustbench_med.evaluation.prepare",
    "robustbench_med.evaluation.batches",
    "robustbench_med.measure.accuracy",
    "robustbench_med.measure.metrics",
)
SHELF = "robustbench_med.attacks"

NET = ("name", "architecture", "options", "defenses", "added", "seed")
"""What tells one net of a model from another."""
CARD = ("label", "title", *NET)
"""What ``card_model`` says of a model."""


def code_of(roots: tuple[str, ...], libraries: tuple[str, ...] = ()) -> dict[str, Any]:
    """The code behind a number: a hash of its sources, the versions of libraries, and the checkout.

    The commit is recorded, not hashed: publishing a record makes another one.
    """
    return {
        "sources": sha256_json(source_hashes(roots)),
        "versions": versions(libraries),
        **checkout(),
    }


def code_of_run(prepared: Prepared) -> dict[str, Any]:
    """The code behind a run: harness, attack, model, defenses, and the data's source."""
    plan, further = prepared.plan, ["robustbench_med.audit.draws"] if prepared.stored["eot"] == "auto" else []
    roots = (*ROOTS, *modules_of(plan.model, prepared.loaded.config), _module(plan.attack), *further)
    libraries = (*plan.attack.libraries, *plan.model.libraries)
    code = code_of((*roots, *source_modules(prepared.config.dataset)), libraries)
    return {**code, "attack": _code_of_attack(plan.name, plan.attack)}


def _code_of_attack(name: str, attack: Attack) -> dict[str, Any]:
    """The packages that an attack comes from and uses, and a hash of its own sources.

    It is recorded, not hashed into the run's name, which covers all of it anyhow: a gate asks whether a
    number was made by the same attack.
    """
    entry = ATTACKS.entries().get(name.partition(":")[0])
    package = entry.dist.name if entry and entry.dist else "robustbench-med"
    wanted = dict.fromkeys((package, *attack.libraries))
    sources = source_hashes((_module(attack),))
    own = {m: h for m, h in sources.items() if not m.startswith(HARNESS) or m.startswith(SHELF)}
    found = versions(wanted)
    return {"packages": {each: found[each] for each in wanted}, "sources": sha256_json(own)}


def modules_of(model: FusionModel, config: ModelConfig) -> tuple[str, ...]:
    """The modules of a model, its heads and its defenses."""
    heads = (type(head).__module__ for head in model.answers.values())
    entries = DEFENSES.entries()
    defenses = (entries[d.name].module for d in (*config.defenses, *config.added) if d.name in entries)
    return (type(model).__module__, *heads, *defenses)


def _module(attack: Attack) -> str:
    return type(attack).__module__


def identify(
    stored: Mapping[str, Any],
    config: ModelConfig,
    weights_sha256: str,
    fingerprint: str,
    code: Mapping[str, Any],
) -> str:
    """The name of a run.

    Args:
        stored: the config with every default filled in, less what changes no number.
        config: the model's: a model file may change while its name and weights stay.
        fingerprint: of the samples.
        code: of ``code_of``.
    """
    made_by = {"sources": code["sources"], "versions": code["versions"]}
    return sha256_json([made_by, stored, card_model(config), weights_sha256, fingerprint])[:12]


def subject_key(record: Mapping[str, Any]) -> str:
    """What a record is about, whatever code made it: config, model, weights and data.

    A net is the same by whichever of its names the config calls it, the model's or its label.
    """
    net = record["model"]
    return _subject(record["config"], net, net["weights_sha256"], record["dataset"]["fingerprint"])


def key_of(prepared: Prepared) -> str:
    """``subject_key`` of the record that this run would have."""
    net, split = prepared.loaded, prepared.plan.split
    return _subject(prepared.stored, card_model(net.config), net.weights_sha256, split.fingerprint)


def _subject(
    config: Mapping[str, Any], model: Mapping[str, Any], weights_sha256: str, fingerprint: str
) -> str:
    net = {name: model[name] for name in NET if name in model}
    parts = [{**config, "model": model["name"]}, net, weights_sha256, fingerprint]
    return sha256_json(parts)[:12]


def refuting_id(run: str, digest: str, finder: str) -> str:
    """The name of a record that refutes ``run`` by inputs of this digest."""
    return sha256_json(["refutes", run, digest, finder])[:12]


def scoring_seed(record: Mapping[str, Any]) -> int:
    """Of the draws that the attacked inputs of a record were scored on.

    Those of a refutation derive from what was handed in, so that nobody can make inputs that fit them.
    """
    refutes = record.get("refutes")
    if isinstance(refutes, dict):
        return derive(0, "refute", str(refutes.get("inputs_sha256")))
    return int(record["seed"])


def claimed_id(record: Mapping[str, Any]) -> str | None:
    """The name that a record must have by what it says of itself; None where it says too little."""
    refutes, members, code = record.get("refutes"), record.get("members"), record["code"]
    if isinstance(refutes, dict):
        run, digest, finder = (str(refutes.get(name)) for name in ("run", "inputs_sha256", "finder"))
        return refuting_id(run, digest, finder)
    if members is not None:
        return sha256_json(members)[:12]
    if not isinstance(code, dict) or not isinstance(code.get("sources"), str):
        return None
    made_by = {"sources": code["sources"], "versions": code.get("versions")}
    model = {k: v for k, v in record["model"].items() if k in CARD}
    weights, data = record["model"].get("weights_sha256"), record["dataset"]["fingerprint"]
    return sha256_json([made_by, record["config"], model, weights, data])[:12]
