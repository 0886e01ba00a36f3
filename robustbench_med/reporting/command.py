"""The command that makes a record again, from the config that the record keeps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

FLAGS = ("steps", "step_size", "restarts", "loss", "keep")  # of the attack, with a flag of their own


def command(record: Mapping[str, Any]) -> str:
    """One line for a shell; for somebody's inputs the one that hands them in.

    What a record does not keep is not in it: where weights lay that do not ship, and how a net of somebody's
    own is called (--inputs, --outputs, --normalize).
    """
    if (refutes := record.get("refutes")) is not None:
        return shlex.join(
            ["robmed", "refute", f"{refutes['run']}.json", "INPUTS.npz", "--finder", refutes["finder"]]
        )
    audit = record["audit"]
    start = ["robmed", "audit" if audit.get("complete") else "run"]
    chosen = audit.get("config")
    if audit.get("complete") and chosen not in (None, "default"):
        start = ["robmed", "run", "--audit", str(chosen)]
    return shlex.join([*start, *_flags(record["config"], record["dataset"]["modalities"])])


def _flags(config: Mapping[str, Any], modalities: Mapping[str, Any]) -> Iterator[str]:
    yield from ("--model", config["model"], "--attack", config["attack"], "--dataset", config["dataset"])
    for defense in config.get("defenses", ()):
        yield from ("--defense", _defense(defense))
    yield from ("--eps", _radii(config["eps"]))
    if config["norm"] != "linf":
        yield from ("--norm", config["norm"])
    if list(config["modality"]) != list(modalities):
        yield from ("--modality", ",".join(config["modality"]))
    if config["head"] != "any":
        yield from ("--head", config["head"])
    if config.get("towards") is not None:
        yield from ("--towards", config["towards"])
    yield from _of_attack(config["attack_options"])
    for name in ("eot", "draws", "samples", "batch_size", "seed"):
        yield from (f"--{name.replace('_', '-')}", str(config[name]))
    if config["device"] != "cpu":
        yield from ("--device", config["device"])


def _of_attack(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = name.replace("_", "-")
        if value is None or value == {}:
            continue
        if name == "random_start":
            yield "--random-start" if value else "--no-random-start"
        elif name in FLAGS:
            yield from (f"--{flag}", _said(value))
        else:
            yield from ("--option", f"{flag}={_said(value)}")


def _defense(defense: Mapping[str, Any]) -> str:
    options = ",".join(f"{k}={_said(v)}" for k, v in defense["options"].items() if v is not None)
    return f"{defense['name']}:{options}" if options else str(defense["name"])


def _said(value: object) -> str:
    """A value as YAML reads it back."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _radii(radii: Mapping[str, float]) -> str:
    """ "4/255" where all are equal, else "mr=4/255,ct=0.1"."""
    if len(set(radii.values())) == 1:
        return _radius(next(iter(radii.values())))
    return ",".join(f"{name}={_radius(value)}" for name, value in radii.items())


def _radius(value: float) -> str:
    """As a share of 255 where that is exactly the number."""
    grey = f"{value * 255:.6g}"
    exact = float(grey) / 255 == value and len(grey) + 4 < len(repr(value))
    return f"{grey}/255" if exact else repr(value)
