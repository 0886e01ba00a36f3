"""How a net of somebody's own is called, as flags say it; no torch, so that errors come at once."""

from __future__ import annotations

from typing import Any

from robustbench_med.util.errors import UserError

FORM = "write --normalize mean=0.5,std=0.25, or a number a channel: mean=0.48,0.45,0.41,std=0.23,0.22,0.22"


def net_options(
    inputs: str | None, outputs: str | None, normalize: str | None, mode: str | None
) -> dict[str, Any]:
    """Options of ``models.wrap.wrap`` from ``--inputs``, ``--outputs``, ``--normalize`` and ``--mode``.

    Raises:
        UserError: a flag that cannot be read.
    """
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
    return options


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
