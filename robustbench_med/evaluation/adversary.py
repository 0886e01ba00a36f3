"""The adversary of a run or of a training: which attack, within which threat model, with which goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from robustbench_med.api.attack import Attack
from robustbench_med.api.data import DatasetInfo, Kind, Modality
from robustbench_med.api.objective import Goal
from robustbench_med.api.space import Box
from robustbench_med.api.threat import Budget, Norm, ThreatModel
from robustbench_med.evaluation.attacks import attack_class
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError, unknown

# Linf radii where none is given, in units of the modality: MAIL's released one; a tenth of a feature's
# standard deviation for tables.
DEFAULT_RADII: Mapping[Kind, float] = {
    "image": 4 / 255,
    "volume": 4 / 255,
    "signal": 4 / 255,
    "table": 0.1,
}
JOINT = "l2-joint"
MOST = 100_000_000  # steps, restarts, queries, draws: years of passes
NORMS: Mapping[str, Norm] = {"linf": "linf", "l2": "l2", JOINT: "l2"}

Radii = float | Mapping[str, float] | None


def make_attack(name: str, options: Mapping[str, Any]) -> Attack:
    """An attack by its name ("pgd", "library:Class") with some of its fields set.

    Raises:
        UserError: unknown attack or option, or a value of the wrong type.
    """
    cls, variant = attack_class(name), name.partition(":")[2]
    chosen = dict(options) | (cls.variant_of(variant) if variant else {})
    made = build(cls, chosen, f"attack {name}")
    for option, value in vars(made).items():
        require_finishable(value, f"attack {name}: {option.replace('_', '-')}")
    return made


def require_finishable(value: object, what: str) -> None:
    """Refuse a count that no machine would come to the end of.

    Raises:
        UserError: it is above ``MOST``.
    """
    if isinstance(value, int) and value > MOST:
        raise UserError(f"{what} is {str(value)[:30]}; nothing above {MOST:,} ever ends")


def radii_of(
    eps: Radii, norm: str, modality: Sequence[str], modalities: Sequence[Modality]
) -> dict[str, float]:
    """The radius of every attacked modality, in the order of the data set.

    Args:
        eps: radius of every attacked modality, or of each by name; by default that of its kind.
        norm: a key of ``NORMS``.
        modality: the attacked ones; when empty those that ``eps`` names, or all.

    Raises:
        UserError: unknown norm or modality, a missing radius, or no radius in another norm than Linf.
    """
    names = [m.name for m in modalities]
    by_name = eps if isinstance(eps, Mapping) else None
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    if norm != "linf" and eps is None:
        raise UserError(f"norm {norm} needs its own --eps: the default, 4/255, is an Linf radius")
    attacked = tuple(modality) or tuple(by_name or names)
    for name in (*attacked, *(by_name or ())):
        if name not in names:
            raise unknown("modality", name, names)
    missing = [name for name in attacked if by_name is not None and name not in by_name]
    if missing:
        raise UserError(f"eps gives no radius for the attacked modality {missing[0]!r}")
    kinds = {m.name: m.kind for m in modalities}
    out = {}
    for name in names:
        if name in attacked:
            given = by_name[name] if by_name is not None else eps
            out[name] = DEFAULT_RADII[kinds[name]] if given is None else float(given)  # type: ignore[arg-type]
    return out


def make_threat_model(eps: Radii, norm: str, modality: Sequence[str], info: DatasetInfo) -> ThreatModel:
    """The threat model on a data set; see ``radii_of``.

    Raises:
        UserError: see ``radii_of``; a table in which nothing can be forged.
    """
    radii = radii_of(eps, norm, modality, info.modalities)
    boxes = {name: Box.of(info.modality(name)) for name in radii}
    for name, box in boxes.items():
        if box.mutable is not None and not box.mutable.any():
            raise UserError(f"no element of {name!r} may be changed; leave it out with --modality")
    budgets = {name: Budget(NORMS[norm], epsilon, boxes[name]) for name, epsilon in radii.items()}
    return ThreatModel(budgets, joint=norm == JOINT)


def make_goal(head: str, info: DatasetInfo, towards: str | None = None) -> Goal:
    """The goal on a data set.

    Args:
        head: "any", "all", a head, or one question of one ("findings.effusion").
        towards: the answer that the one question aimed at is to get, as "from=to" for samples of one class or
            "to" for all others; None for any wrong answer.

    Raises:
        UserError: none of these; a question that is aimed at with others; an answer that it has not.
    """
    questions = [question for each in info.heads for question in each.questions]
    known = list(dict.fromkeys(["any", "all", *(each.name for each in info.heads), *questions]))
    if head not in known:
        raise unknown("head", head, known)
    goal = Goal(info.heads, head)
    if towards is None:
        return goal
    if len(goal.questions) != 1:
        raise UserError(
            f"--towards {towards}: name the one question with --head ({', '.join(goal.questions)})"
        )
    answers = goal.aimed[0][0].answers
    source, _, target = towards.rpartition("=")
    for answer in filter(None, (source, target)):
        if answer not in answers:
            raise unknown(f"answer of {goal.questions[0]}", answer, answers)
    if source == target:
        raise UserError(f"--towards {towards}: the answer to reach must be another one")
    return replace(goal, towards=answers.index(target))


def source_of(towards: str | None, goal: Goal) -> int | None:
    """The class that ``towards`` says the attacked samples have; None for all but the target's."""
    source = (towards or "").rpartition("=")[0]
    return goal.aimed[0][0].answers.index(source) if source else None
