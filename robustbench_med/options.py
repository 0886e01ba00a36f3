"""What flags and YAML ask for, as configs. Torch is imported once all names are known to be right."""

from __future__ import annotations

import argparse
from typing import Any

from robustbench_med.util.errors import UserError

ATTACK_OPTIONS = ("steps", "step_size", "restarts", "loss", "keep", "random_start")
OPTION = "NAME=VALUE, such as size=64"


def run_config(options: argparse.Namespace) -> Any:
    """The ``RunConfig`` that flags, and the protocol they name, ask for; every name in it exists.

    Raises:
        UserError: something is missing, unknown, or given twice.
    """
    from robustbench_med.names import require, require_all
    from robustbench_med.util.config import build, find, pairs, read_yaml, scalar
    from robustbench_med.util.fields import named_numbers

    if options.config:
        require("protocol", options.config)
    values = read_yaml(find("protocol", "protocols", options.config)) if options.config else {}
    other = ("command", "config", "audit", "radii", "pictures")
    flags = {k: v for k, v in vars(options).items() if v is not None and k not in other}
    join(flags, values.get("dataset"))
    given = values.get("attack_options") or {}
    if not isinstance(given, dict):
        raise UserError(f"{options.config}: attack_options must be a mapping, not {type(given).__name__}")
    own = {name: flags.pop(name) for name in ATTACK_OPTIONS if name in flags}
    further = pairs(flags.pop("option", []), "--option", OPTION)
    twice = next((name for name in further if name in own), None)
    if twice is not None:
        flag = twice.replace("_", "-")
        raise UserError(f"--{flag} and --option {flag} are both given; drop one")
    attack_options = {**given, **own, **{name: scalar(value) for name, value in further.items()}}
    flags |= net_options(flags)
    if "eps" in flags:
        flags["eps"] = named_numbers(flags["eps"], "--eps")
    if "modality" in flags:
        flags["modality"] = tuple(flags["modality"].split(","))
    merged = {**values, **flags, "attack_options": attack_options}
    for name in ("model", "attack"):
        if name not in merged:
            raise UserError(f"--{name} is missing; see what there is with: robmed list {name}s")
    require_all(merged)
    if options.audit is not None:
        require("audit", options.audit)
    from robustbench_med.evaluation.prepare import RunConfig

    return build(RunConfig, merged, options.config or "robmed run")


def join(flags: dict[str, Any], otherwise: str | None = None) -> None:
    """Put the second data set of --with behind the first."""
    second = flags.pop("joined_with", None)
    if second is None:
        return
    first = flags.get("dataset") or otherwise
    if first is None:
        raise UserError("--with joins a second data set to the one of --data; give that, too")
    from robustbench_med.data.joined import JOINED_BY

    flags["dataset"] = f"{first}{JOINED_BY}{second}"


def net_options(flags: dict[str, Any]) -> dict[str, Any]:
    """Take what says how a net is called out of the flags."""
    from robustbench_med.models.flags import net_options as read_options

    found = read_options(*(flags.pop(name, None) for name in ("inputs", "outputs", "normalize", "mode")))
    return {"model_options": found} if found else {}
