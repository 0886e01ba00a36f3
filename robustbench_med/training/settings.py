"""The settings of a recipe as its file has them, and those of the one it is like; no torch, so that they are
listed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_med.util.config import find, read_yaml
from robustbench_med.util.errors import UserError

KINDS = ("variants", "members")


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings of a recipe, and those of its variants and members by name; those it is ``like`` first.

    Raises:
        UserError: it does not parse, or is like one that is like another.
    """
    values, given = _parsed(path)
    name = values.pop("like", None)
    if name is None:
        return values, given
    like = find("recipe", "train", str(name))
    shared, otherwise = _parsed(like)
    if "like" in shared:
        raise UserError(f"{path}: like: {like} is itself like {shared['like']}; name that one")
    return over(shared, values), {kind: otherwise[kind] | given[kind] for kind in KINDS}


def _parsed(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A recipe as it is written: its settings, and what ``variants`` and ``members`` hold.

    Raises:
        UserError: it does not parse, or these hold no mappings by name.
    """
    values = read_yaml(path)
    given = {kind: values.pop(kind, {}) for kind in KINDS}
    for kind, found in given.items():
        if not isinstance(found, dict) or not all(isinstance(own, dict) for own in found.values()):
            raise UserError(f"{path}: {kind} must hold, by name, what is otherwise for it")
    return values, given


def over(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others on top; an option of the architecture leaves the others as they are."""
    both = [each.get("model_options", {}) for each in (shared, own)]
    if all(isinstance(options, Mapping) for options in both) and any(both):
        return {**shared, **own, "model_options": {**both[0], **both[1]}}
    return {**shared, **own}  # what is no mapping is refused where the recipe is built
