"""Configurations: one dataclass each, the same behind the command line, YAML and Python."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from robustbench_med.util.errors import UserError, unknown

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from plain values, checking names and types.

    Args:
        where: what the values belong to, for the error ("configs/train/x.yaml", "attack pgd").

    Raises:
        UserError: a name the dataclass does not have (a near miss is suggested), a missing one,
            or a value of the wrong type.
    """
    known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for name in map(str, values):  # YAML keys may be anything
        if name not in known:
            error = unknown("option", name.replace("_", "-"), [k.replace("_", "-") for k in known])
            raise UserError(f"{where}: {error}")
    try:
        built: T = _adapter(cls).validate_python(dict(values))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or cls.__name__
        raise UserError(f"{where}: {name}: {first['msg']} (got {first['input']!r})") from error
    return built


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a mapping of options, not {type(value).__name__}")
    return value


def scalar(text: str) -> Any:
    """A flag's value as YAML reads it: "3" is a number, "true" a truth value, "cat" a word."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def shipped(folder: str) -> dict[str, Path]:
    """The YAML files under ``configs/<folder>`` by name."""
    root = Path(str(resources.files("robustbench_med.configs"))) / folder
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def find(kind: str, folder: str, name: str) -> Path:
    """A config by the name it ships under, or by its path.

    Raises:
        UserError: neither exists.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.exists():
            raise UserError(f"the {kind} config {name} does not exist")
        return path
    known = shipped(folder)
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]
