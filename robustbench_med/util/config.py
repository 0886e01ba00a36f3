"""Configurations: one dataclass each, the same behind the command line, YAML and Python."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.files import given_path, nearest, read_text

T = TypeVar("T")

LONGEST = 200_000  # characters of a YAML file: ours have hundreds
DEEPEST = 40  # levels
MOST_NODES = 20_000


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make a dataclass from plain values, checking names and types.

    Args:
        where: what the values belong to, for the error ("configs/train/x.yaml", "attack pgd").

    Raises:
        UserError: a name the dataclass does not have (a near miss is suggested), a missing one,
            or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where} holds {_short(values)}, not options with names")
    known = [f.name for f in fields(cls) if f.init]  # type: ignore[arg-type]
    for name in map(str, values):  # YAML keys may be anything
        if name not in known:
            error = unknown("option", name.replace("_", "-")[:80], [k.replace("_", "-") for k in known])
            raise UserError(f"{where}: {error}")
    try:
        built: T = _adapter(cls).validate_python({str(k): v for k, v in values.items()})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or cls.__name__
        raise UserError(f"{where}: {name}: {first['msg']} (got {_short(first['input'])})") from error
    return built


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


class _Loader(yaml.SafeLoader):
    """Plain values only: no aliases (nested ones grow without end), no key twice, nothing absurdly deep."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = self.nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """One node of the document; counted."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.events.AliasEvent):
            raise yaml.YAMLError(f"aliases (*name) are not taken; write the value out (line {line})")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags ({event.tag}) are not taken; write the plain value (line {line})")
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > DEEPEST or self.nodes > MOST_NODES:
            raise yaml.YAMLError("it is nested too deeply or too large for a config")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping whose keys differ."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f"the key {key.value!r} is given twice (again in line {line})")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> Any:
        """A whole number of a length that makes sense."""
        if len(node.value) > 400:
            raise yaml.YAMLError("a number has more than 400 digits")
        return super().construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """What a YAML text says, in plain values.

    Raises:
        yaml.YAMLError, ValueError: it is none, or more than a config holds.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has {len(text)} characters, more than a config can have")
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    text = read_text(path)
    try:
        value = parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a mapping of options, not {type(value).__name__}")
    return value


def dump(values: Mapping[str, Any]) -> str:
    """A mapping of plain values as YAML that ``parse_yaml`` reads."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))


def pairs(texts: Sequence[str], what: str, example: str) -> dict[str, str]:
    """Words of the form NAME=VALUE, by name; "-" and "_" within a name are one.

    Args:
        what: is given so ("--option"), for the error.

    Raises:
        UserError: no "=", no name, or a name twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not name or not equals:
            raise UserError(f"{what} {text}: write {example}")
        if name in found:
            raise UserError(f"{what}: {name.replace('_', '-')!r} is given twice; drop one")
        found[name] = value
    return found


def scalar(text: str) -> Any:
    """A flag's value as YAML reads it: "3" is a number, "true" a truth value, "cat" a word."""
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError):
        return text


def shipped(folder: str) -> dict[str, Path]:
    """The YAML files under ``configs/<folder>`` by name."""
    root = Path(str(resources.files("robustbench_med.configs"))) / folder
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def find(kind: str, folder: str, name: str) -> Path:
    """A config by the name it ships under, or by its path ("~" is the home folder).

    Raises:
        UserError: neither exists.
    """
    if name.endswith((".yaml", ".yml")):
        path = given_path(name)
        if not path.exists():
            raise UserError(f"the {kind} config {name} does not exist{nearest(path)}")
        return path
    known = shipped(folder)
    if name not in known:
        raise unknown(kind, name, known)
    return known[name]
