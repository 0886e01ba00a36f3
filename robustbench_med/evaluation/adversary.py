"""The adversary of a run or of a training: which attack, within which threat model, with which goal."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from robustbench_med.api.attack import Attack
from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.objective import Goal
from robustbench_med.api.registry import Registry
from robustbench_med.api.threat import Budget, Norm, ThreatModel
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError, unknown

ATTACKS: Registry[type[Attack]] = Registry("attack", "robustbench_med.attacks")
LINF_DEFAULT = 4 / 255
JOINT = "l2-joint"
NORMS: Mapping[str, Norm] = {"linf": "linf", "l2": "l2", JOINT: "l2"}


def attack_class(name: str) -> type[Attack]:
    """The class behind a name, or behind what stands before the colon of one.

    Raises:
        UserError: unknown attack, or one that is no dataclass.
    """
    cls = ATTACKS.get(name.partition(":")[0])
    if not dataclasses.is_dataclass(cls):
        raise UserError(f"the attack {name!r} is not a dataclass; its author must make it one")
    return cls


def make_attack(name: str, options: Mapping[str, Any]) -> Attack:
    """An attack by its name ("pgd", "library:Class") with some of its fields set.

    Raises:
        UserError: unknown attack or option, or a value of the wrong type.
    """
    cls, variant = attack_class(name), name.partition(":")[2]
    chosen = dict(options) | (cls.variant_of(variant) if variant else {})
    return build(cls, chosen, f"attack {name}")


def make_threat_model(
    eps: float | Mapping[str, float], norm: str, modality: Sequence[str], info: DatasetInfo
) -> ThreatModel:
    """The threat model on a data set.

    Args:
        eps: radius of every attacked modality, or of each by name.
        norm: a key of ``NORMS``.
        modality: the attacked ones; when empty those that ``eps`` names, or all.

    Raises:
        UserError: unknown norm or modality, a missing radius, or the Linf default in another norm.
    """
    names = [m.name for m in info.modalities]
    radii = eps if isinstance(eps, Mapping) else None
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if norm != "linf" and eps == LINF_DEFAULT:
        raise UserError(f"norm {norm} needs its own --eps: the default, 4/255, is an Linf radius")
    attacked = tuple(modality) or tuple(radii or names)
    for name in (*attacked, *(radii or ())):
        if name not in names:
            raise unknown("modality", name, names)
    missing = [name for name in attacked if radii is not None and name not in radii]
    if missing:
        raise UserError(f"eps gives no radius for the attacked modality {missing[0]!r}")
    budgets = {
        name: Budget(NORMS[norm], radii[name] if radii is not None else eps)  # type: ignore[arg-type]
        for name in names
        if name in attacked
    }
    return ThreatModel(budgets, joint=norm == JOINT)


def make_goal(head: str, info: DatasetInfo) -> Goal:
    """The goal on a data set: "any", "all" or a task.

    Raises:
        UserError: none of these.
    """
    known = ["any", "all", *(t.name for t in info.tasks)]
    if head not in known:
        raise unknown("head", head, known)
    return Goal(head)
