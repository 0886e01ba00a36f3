"""Named models: an architecture, its options, and the defenses it carries."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict

from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.api.registry import Registry
from robustbench_med.util.config import build, find, pairs, read_yaml, scalar, shipped
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.fields import STRICT

ARCHITECTURES: Registry[type[FusionModel]] = Registry("architecture", "robustbench_med.models")
DEFENSES: Registry[type[Defense]] = Registry("defense", "robustbench_med.defenses")
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # of a model: it becomes part of file names


@dataclass(frozen=True)
class DefenseConfig:
    """A defense by name, with its parameters."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """ "jpeg(quality=75,straight_through=True)"."""
        given = {name: value for name, value in self.options.items() if value is not None}
        options = ",".join(f"{name}={_short(value)}" for name, value in given.items())
        return f"{self.name}({options})" if options else self.name


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parsed_defense(value: object) -> object:
    """Turn "name:key=value,key=value" into a mapping; leave everything else for the type check."""
    if not isinstance(value, str):
        return value
    name, _, text = value.partition(":")
    given = pairs(text.split(",") if text else [], f"defense {value!r}:", "NAME:OPTION=VALUE,OPTION=VALUE")
    return {"name": name, "options": {key: scalar(each) for key, each in given.items()}}


DefenseSpec = Annotated[DefenseConfig, BeforeValidator(_parsed_defense)]
"""A ``DefenseConfig`` that flags and YAML may write as "gaussian-noise:sigma=0.1"."""


@dataclass(frozen=True)
class ModelConfig:
    """A named model.

    Attributes:
        defenses: those it was trained with.
        added: those put on top of them afterwards.

    Raises:
        UserError: a name that is no part of a file name.
    """

    name: str
    architecture: str
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    defenses: tuple[DefenseSpec, ...] = ()
    added: tuple[DefenseSpec, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"model name {self.name!r}: use letters, digits and . _ + - only")

    def with_options(self, options: Mapping[str, Any]) -> ModelConfig:
        """The same model with some architecture options changed (say, its width)."""
        return replace(self, options={**self.options, **options})

    def with_defenses(self, defenses: Sequence[DefenseConfig]) -> ModelConfig:
        """The same model with more defenses on top, every default of theirs filled in.

        Raises:
            UserError: unknown defense or option, or a value of the wrong type.
        """
        return replace(self, added=(*self.added, *map(_completed, defenses)))

    @property
    def label(self) -> str:
        """The name, with what is not as in the shipped config of that name, and with what was added:
        "mail-x0.25-dropout0.5+gaussian-noise(sigma=0.1)". ``x`` is the width.
        """
        usual = {"width": 1, **_shipped_options(self.name)}
        parts = [self.name]
        for option, value in self.options.items():
            if option not in usual or usual[option] != value:
                short = "x" if option == "width" else option.replace("_", "-")
                parts.append(re.sub(r"[^\w.+-]+", "-", f"{short}{_short(value)}"))
        return "+".join(["-".join(parts), *(defense.label for defense in self.added)])


@functools.cache
def _shipped_options(name: str) -> Mapping[str, Any]:
    known = shipped("models")
    options = read_yaml(known[name]).get("options") if name in known else None
    return options if isinstance(options, dict) else {}


def model_names() -> list[str]:
    """Names ``model_config`` knows: shipped configs and every installed architecture."""
    return sorted({*shipped("models"), *ARCHITECTURES.entries()})


def is_path(name: str) -> bool:
    """Whether a model is named by a file."""
    return name.endswith((".yaml", ".yml"))


def require_model(name: str) -> None:
    """Make sure, before anything else is looked at, that there is such a model.

    Raises:
        UserError: there is none.
    """
    if name not in model_names() and not is_path(name):
        raise unknown("model", name, model_names())


def model_config(name: str) -> ModelConfig:
    """A model by its config's name or path; an architecture's own name means its defaults.

    Raises:
        UserError: unknown name, or a config that does not parse.
    """
    require_model(name)
    if name in ARCHITECTURES.entries() and name not in shipped("models"):
        return ModelConfig(name=name, architecture=name)
    path = find("model", "models", name)
    return build(ModelConfig, {"name": path.stem, **read_yaml(path)}, str(path))


def build_model(config: ModelConfig, info: DatasetInfo) -> FusionModel:
    """Build a model with fresh start values for a data set's modalities and heads.

    Raises:
        UserError: unknown architecture, defense or option, or a defense that does not fit.
    """
    architecture = ARCHITECTURES.get(config.architecture)
    known = [
        name
        for name, parameter in inspect.signature(architecture).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY or name not in ("modalities", "heads")
    ]
    for option in config.options:
        if option not in known:
            raise UserError(f"model {config.name}: {unknown('option', option, known)}")
    model = architecture(info.modalities, info.heads, **config.options)
    for defense in (*config.defenses, *config.added):
        make_defense(defense).apply(model)
    return model


def make_defense(config: DefenseConfig) -> Defense:
    """A defense with its parameters.

    Raises:
        UserError: unknown defense or option, or a value of the wrong type.
    """
    plugin = DEFENSES.get(config.name)
    if not is_dataclass(plugin):
        raise UserError(f"the defense {config.name!r} is not a dataclass; its author must make it one")
    return build(plugin, config.options, f"defense {config.name}")


def _completed(config: DefenseConfig) -> DefenseConfig:
    return replace(config, options=asdict(make_defense(config)))  # type: ignore[call-overload]


def card_model(config: ModelConfig) -> dict[str, Any]:
    """A model's config as a card and a record repeat it; nothing added, nothing said of it."""
    said = asdict(config)
    if not config.added:
        del said["added"]
    return {"label": config.label, **said}
