"""Whether two records speak of the same thing, and what has changed between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustbench_med.util.errors import UserError

SAME: Mapping[str, str] = {
    "dataset.name": "data set",
    "dataset.fingerprint": "values or samples",
    "threat_model.budgets": "radii or norms",
    "threat_model.joint": "radii or norms",
    "threat_model.goal": "goal",
    "threat_model.towards": "goal",
}
SAID: Mapping[str, str] = {
    "model.label": "model",
    "model.weights_sha256": "weights",
    "scoring.draws": "scoring draws",
    "config.batch_size": "batch size",
    "config.device": "device",
}
"""What may differ, and is said; by its place, which may be missing."""
HASH = 12  # characters of one that are shown


def require_same(
    before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str], advice: str = ""
) -> None:
    """Make sure that two records are about the same samples and the same threat model.

    Args:
        names: how errors call the two.
        advice: what to do otherwise, from a semicolon on.

    Raises:
        UserError: they are not.
    """
    for field, what in SAME.items():
        values = [at(record, field) for record in (before, after)]
        if values[0] != values[1]:
            told = _told(*values)
            raise UserError(
                f"{names[0]} and {names[1]} cannot be compared: other {what} ({field}{told}){advice}"
            )


def require_same_attack(
    before: Mapping[str, Any], after: Mapping[str, Any], names: tuple[str, str], advice: str = ""
) -> None:
    """Make sure that the same attack was run, with the same options, by the same packages.

    Raises:
        UserError: it was not: a difference would say nothing about the models.
    """
    attacks = [attack_of(record) for record in (before, after)]
    odd = next(differences(*attacks), None)
    packages = [at(record, "code.attack.packages") for record in (before, after)]
    if odd is None and None not in packages:
        odd = next(differences(*map(_mapping, packages)), None)
    if odd is not None:
        what, old, new = odd
        told = f"the attacks differ ({what}: {old} before, {new} now)"
        raise UserError(f"{names[0]} and {names[1]} cannot be compared: {told}{advice}")


def require_one_claim(records: Sequence[Mapping[str, Any]], name: str) -> None:
    """Make sure that some records differ in their seed alone.

    Raises:
        UserError: they do not.
    """
    for each in records[1:]:
        for field in (*SAME, "model.weights_sha256", "model.label"):
            if at(each, field) != at(records[0], field):
                raise UserError(f"the records of {name} are not of one claim: they differ in {field}")
        if attack_of(each) != attack_of(records[0]):
            raise UserError(f"the records of {name} are not of one claim: their attacks differ")
        if each.get("seed") == records[0].get("seed"):
            raise UserError(f"{name} has two records of seed {each.get('seed')}; keep one")


def attack_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The attack as it was asked for: how many draws "auto" settles on is the model's doing."""
    eot = record.get("config", {}).get("eot", record["attack"].get("eot"))
    listed = record.get("member_attacks")
    members = enumerate(listed if isinstance(listed, list) else (), 1)
    told = {f"member {i}": {k: v for k, v in _mapping(m).items() if k != "eot"} for i, m in members}
    return {**record["attack"], "eot": eot, **told}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between two records of the same claim and may explain a difference, in words."""
    said = []
    for field, what in SAID.items():
        old, new = at(before, field), at(after, field)
        if old != new and None not in (old, new):
            said.append(f"{what}: {_short(old)} before, {_short(new)} now")
    if before.get("seed") != after.get("seed"):
        said.append(f"seed: {before.get('seed')} before, {after.get('seed')} now: chance differs, too")
    versions = [_mapping(at(record, "code.versions")) for record in (before, after)]
    said += [f"{name}: {old} before, {new} now" for name, old, new in differences(*versions)]
    sources = [at(record, "code.attack.sources") for record in (before, after)]
    if None not in sources and sources[0] != sources[1]:
        said.append("the attack's own code changed, under the same version")
    elif at(before, "code.sources") != at(after, "code.sources"):
        said.append("code: other sources took part")
    if "accepted" in before:
        said.append(f"the baseline was accepted although its number is in doubt: {before['accepted']}")
    return tuple(said)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """By name what two mappings differ in, and both values in words."""
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield name, _short(old), _short(new)


def at(record: Any, dotted: str) -> Any:
    """A field of a record by its place; None where it has none."""
    for name in dotted.split("."):
        record = record.get(name) if isinstance(record, Mapping) else None
    return record


def _mapping(value: object) -> Mapping[str, Any]:
    """What should be a mapping; one without anything where a damaged record has something else."""
    return value if isinstance(value, Mapping) else {}


def _told(old: object, new: object) -> str:
    """Both values, unless they are long."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        inner = next(differences(old, new), None)
        return f", {inner[0]}: {inner[1]} before, {inner[2]} now" if inner else ""
    return f": {_short(old)} before, {_short(new)} now"


def _short(value: object) -> str:
    if value is None:
        return "none"
    text = str(value)
    if len(text) == 64 and all(c in "0123456789abcdef" for c in text):
        return text[:HASH]
    return text if len(text) <= 160 else f"{text[:159]}…"


def diff(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What differs between a baseline and the one that takes its place: what, before and now, in words."""
    old, new = ({} if before is None else _summary(before)), _summary(after)
    return list(differences(old, new))


def _summary(record: Mapping[str, Any]) -> dict[str, str]:
    """What a reviewer of a baseline wants to know of a record."""
    told = {what: at(record, field) for field, what in SAID.items()}
    told |= {"data": at(record, "dataset.name"), "fingerprint": at(record, "dataset.fingerprint")}
    told |= {"samples": at(record, "dataset.samples"), "goal": at(record, "threat_model.goal")}
    for name, budget in _mapping(at(record, "threat_model.budgets")).items():
        told[f"radius of {name}"] = _radius(budget)
    told |= {f"attack, {name}": value for name, value in attack_of(record).items()}
    told |= {"audit": at(record, "audit.verdict"), "audit by": at(record, "audit.config")}
    for name, accuracy in record["accuracy"].items():
        for kind in ("clean", "robust"):
            value = at(accuracy, f"{kind}.value")
            told[f"{kind}, {name}"] = f"{100 * value:.1f} %" if isinstance(value, float | int) else value
    told |= {f"version of {name}": v for name, v in _mapping(at(record, "code.versions")).items()}
    return {name: value for name, value in told.items() if value is not None}


def _radius(budget: object) -> str:
    if not isinstance(budget, Mapping) or not isinstance(budget.get("epsilon"), float | int):
        return str(budget)
    return f"{budget.get('norm')} {255 * budget['epsilon']:.4g}/255"
