"""What flags and YAML ask for, as configs. Torch is imported once all names are known to be right."""

from __future__ import annotations

import argparse
from typing import Any

from robustbench_med.util.errors import UserError

ATTACK_OPTIONS = ("steps", "step_size", "restarts", "loss", "keep", "random_start")
OPTION = "NAME=VALUE, such as size=64"
FORM = "write --normalize mean=0.5,std=0.25, or a number a channel: mean=0.48,0.45,0.41,std=0.23,0.22,0.22"


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
    other = ("command", "config", "audit", "radii", "pictures", "workers", "ray", "mlflow")
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


def crew_of(options: argparse.Namespace) -> dict[str, Any]:
    """Who makes the runs, and who is told of their records, as ``run_all`` and its like take them.

    Raises:
        UserError: a number of workers that makes no sense; MLflow is asked for and is not installed.
    """
    from robustbench_med.evaluation.workers import Workers

    on_record = None
    if options.mlflow is not None:
        from robustbench_med.mlflow import logger

        on_record = logger(options.mlflow or None)
    asked = options.workers if options.workers is not None else 0
    if options.workers is not None and options.workers < 1:
        raise UserError(f"--workers {options.workers}: choose 1 or more, about as many as there are cores")
    return {"workers": Workers(asked, options.ray), "on_record": on_record}


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
    """Take what says how a net is called (``models.wrap.wrap``) out of the flags.

    Raises:
        UserError: a flag that cannot be read.
    """
    inputs, outputs, normalize, mode = (
        flags.pop(n, None) for n in ("inputs", "outputs", "normalize", "mode")
    )
    options: dict[str, Any] = {}
    if inputs is not None:
        options["inputs"] = (
            _named(inputs) if "=" in inputs else inputs if inputs == "mapping" else inputs.split(",")
        )
    if outputs is not None:
        options["outputs"] = _named(outputs) if "=" in outputs else outputs.split(",")
    if normalize is not None:
        options |= _statistics(normalize)
    if mode is not None:
        options["mode"] = mode
    return {"model_options": options} if options else {}


def _named(text: str) -> dict[str, str | int]:
    """ "lesion=0,side=logits" as a mapping; whole numbers are positions."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(name and equals and value for name, equals, value in pairs):
        raise UserError(f"{text!r}: write NAME=PLACE,NAME=PLACE")
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


def _statistics(text: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    name = ""
    for part in text.split(","):
        before, equals, after = part.rpartition("=")
        name = before.strip() if equals else name
        try:
            found.setdefault(name, []).append(float(after))
        except ValueError as error:
            raise UserError(f"--normalize {text}: {after!r} is no number; {FORM}") from error
    if not found or not set(found) <= {"mean", "std"}:
        raise UserError(f"--normalize {text}: {FORM}")
    return found
