"""Attacks by name; no torch until one is asked for, so that errors about names come at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from robustbench_med.api.registry import Registry
from robustbench_med.util.errors import UserError, unknown

if TYPE_CHECKING:
    from robustbench_med.api.attack import Attack

ATTACKS: Registry[type[Attack]] = Registry("attack", "robustbench_med.attacks")


def attack_class(name: str) -> type[Attack]:
    """The class behind a name, or behind what stands before the colon of one.

    Raises:
        UserError: unknown attack, or one that is no dataclass.
    """
    cls = ATTACKS.get(name.partition(":")[0])
    if not dataclasses.is_dataclass(cls):
        raise UserError(f"the attack {name!r} is not a dataclass; its author must make it one")
    return cls


def require_attack(names: str) -> None:
    """Make sure that there is every attack of a comma-separated list; none of them is imported.

    Raises:
        UserError: there is none of such a name.
    """
    for name in names.split(","):
        if (own := name.strip().partition(":")[0]) not in ATTACKS.entries():
            raise unknown(ATTACKS.kind, own, ATTACKS.entries())
