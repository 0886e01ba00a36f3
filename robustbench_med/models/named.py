"""Named models: an architecture, its options, and the defenses it carries. No torch until one is built."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.registry import Registry
from robustbench_med.models.cards import labelled, trained
from robustbench_med.util.config import build, find, pairs, read_yaml, scalar, shipped
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.fields import STRICT
from robustbench_med.util.files import given_path, nearest, read_json

if TYPE_CHECKING:
    from robustbench_med.api.defense import Defense
    from robustbench_med.api.model import FusionModel

ARCHITECTURES: Registry[type[FusionModel]] = Registry("architecture", "robustbench_med.models")
DEFENSES: Registry[type[Defense]] = Registry("defense", "robustbench_med.defenses")
# Of a model; it becomes part of the names of files, on any system.
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.+-]{0,62}[A-Za-z0-9_+-])?")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows' own
LONGEST_LABEL = 120
# How a net was trained otherwise than usual, by the end of its name: "gated-at" is "gated" so trained.
VARIANTS = {
    "at": "adversarially trained",  # PGD-AT, Madry et al. 2018
    "tuned": "adversarially trained by the recipe of a search",  # leaderboards/searches/robust-mail.yaml
    "trades": "trained by TRADES",  # Zhang et al. 2019
    "turn": "trained with one modality attacked in turn",  # Yang et al. 2022
}

FINITE = ConfigDict(allow_inf_nan=False)
SCRIPTED = (".ts", ".torchscript", ".pt", ".pth")
EXPORTED = (".pt2",)
OF_KERAS = (".keras", ".h5", ".hdf5")
OF_ONNX = (".onnx",)


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
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


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
        seed: of its training, where that is not the usual 0.

    Raises:
        UserError: a name that is no part of a file name.
    """

    name: str
    architecture: str
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    defenses: tuple[DefenseSpec, ...] = ()
    added: tuple[DefenseSpec, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or RESERVED.fullmatch(self.name):
            raise UserError(
                f"model name {_cut(repr(self.name), 80)}: use letters, digits and . _ + - only, up to 64, "
                "with a letter or digit first and no dot last, and no name that Windows keeps for itself"
            )

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
        "mail-x0.25-dropout0.5+gaussian-noise(sigma=0.1)". ``x`` is the width; a net of another seed than
        the usual ends in "-seed1".
        """
        if is_code(self.architecture):
            return "+".join([self.name, *(defense.label for defense in self.added)])
        usual = _shipped_config(self.name)
        shipped_options = usual.options if usual else {}
        options: Mapping[str, Any] = {"width": 1, **shipped_options}
        parts = [self.name]
        if usual and self.architecture != usual.architecture:
            parts.append(self.architecture)
        for option, value in self.options.items():
            if option not in options or options[option] != value:
                short = "x" if option == "width" else option.replace("_", "-")
                parts.append(f"{short}{_short(value)}")
        left_out = [option for option in shipped_options if option not in self.options]
        parts += [f"without-{option.replace('_', '-')}" for option in left_out]
        if usual and self.defenses != usual.defenses:
            parts += [defense.label for defense in self.defenses] or ["undefended"]
        if self.seed:
            parts.append(f"seed{self.seed}")
        own = _cut("-".join(re.sub(r"[^\w.+-]+", "-", part).strip("-") for part in parts), LONGEST_LABEL)
        return "+".join([own, *(defense.label for defense in self.added)])


@functools.cache
def _shipped_config(name: str) -> ModelConfig | None:
    """The config that ships under a name, if one does."""
    known = name in shipped("models") or variant_of(name)[1]
    return model_config(name) if known else None


def _cut(text: str, most: int) -> str:
    """A text that is not too long; what is cut away is still told apart, by its hash."""
    if len(text) <= most:
        return text
    return f"{text[: most - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def model_names() -> list[str]:
    """Shipped configs, every installed architecture, and the variants of them that were trained."""
    return sorted(_usual_names() | {name for name in trained().values() if variant_of(name)[1]})


def _usual_names() -> set[str]:
    return {*shipped("models"), *ARCHITECTURES.entries()}


def is_code(name: str) -> bool:
    """Whether a model is named by code or by a file, "net.py:make", not by a name of the zoo."""
    before, colon, after = name.rpartition(":")
    if colon and after.isidentifier():
        return before.endswith(".py") or all(part.isidentifier() for part in before.split("."))
    return name.endswith((*SCRIPTED, *EXPORTED, *OF_KERAS, *OF_ONNX, ".py"))


def is_path(name: str) -> bool:
    """Whether a model is named by a file."""
    return name.endswith((".yaml", ".yml"))


def variant_of(name: str) -> tuple[str, str]:
    """The model and the variant of it that a name asks for: ("gated", "at"); ("gated", "") for none."""
    base, _, variant = name.rpartition("-")
    return (base, variant) if variant in VARIANTS and base in _usual_names() else (name, "")


def is_label(name: str) -> bool:
    """Whether a model is named by the label of one net at hand, "concat-x0.125"."""
    return _labelled(name) is not None


def _labelled(name: str) -> Path | None:
    """The card of the net that a label names; a model's own name is none."""
    usual = name in _usual_names() or variant_of(name)[1]
    return None if usual or not NAME.fullmatch(name) else labelled(name)


def require_model(name: str) -> None:
    """Make sure, before anything else is looked at, that there is such a model.

    Raises:
        UserError: there is none.
    """
    if name in _usual_names() or variant_of(name)[1] or is_label(name):
        return
    if is_path(name):
        if not (path := given_path(name)).exists():
            raise UserError(f"the model config {name} does not exist{nearest(path)}")
        return
    if not is_code(name):
        raise unknown("model", name, model_names())
    where = name.rpartition(":")[0] or name
    if where.endswith((".py", *SCRIPTED)) and not (path := given_path(where)).is_file():
        raise UserError(f"there is no file {path}{nearest(path)}")


def require_defense(name: str) -> None:
    """Make sure that there is such a defense; it is not imported.

    Raises:
        UserError: there is none.
    """
    if name not in DEFENSES.entries():
        raise unknown(DEFENSES.kind, name, DEFENSES.entries())


def model_config(name: str) -> ModelConfig:
    """A model by its config's name or path; an architecture's own name means its defaults.

    The label of a net at hand means what its card says that it is.

    Raises:
        UserError: unknown name, or a config that does not parse.
    """
    require_model(name)
    base, variant = variant_of(name)
    if variant and name not in shipped("models"):
        usual = model_config(base)
        return replace(usual, name=name, title=f"{usual.title or base}, {VARIANTS[variant]}")
    if name in ARCHITECTURES.entries() and name not in shipped("models"):
        return ModelConfig(name=name, architecture=name)
    if (card := _labelled(name)) is not None:
        return config_from_card(read_json(card), str(card))
    path = find("model", "models", name)
    return build(ModelConfig, {"name": path.stem, **read_yaml(path)}, str(path))


def build_model(config: ModelConfig, info: DatasetInfo) -> FusionModel:
    """Build a model with fresh start values for a data set's modalities and heads.

    Raises:
        UserError: unknown architecture, defense or option, an option of the wrong type, a defense that does
            not fit, or an architecture that is none.
    """
    architecture = ARCHITECTURES.get(config.architecture)
    if not isinstance(architecture, type):
        raise UserError(f"the architecture {config.architecture!r} is no class; its author must make it one")
    named = inspect.signature(architecture).parameters
    if not {"modalities", "heads"} <= set(named):
        raise UserError(
            f"the architecture {config.architecture!r} does not take modalities and heads; its author must "
            "give its constructor both"
        )
    options = _checked_options(config, architecture)
    _require_names(info)
    model = architecture(info.modalities, info.heads, **options)
    for defense in (*config.defenses, *config.added):
        make_defense(defense).apply(model)
    return model


def _checked_options(config: ModelConfig, architecture: type[FusionModel]) -> dict[str, Any]:
    """The options of a config, of the types that the constructor asks for.

    Raises:
        UserError: an unknown one, or a value of another type.
    """
    named = inspect.signature(architecture).parameters
    known = [
        name for name, p in named.items() if p.kind is p.KEYWORD_ONLY or name not in ("modalities", "heads")
    ]
    types, checked = get_type_hints(architecture.__init__), {}
    for option, value in config.options.items():
        where = f"model {config.name}: "
        if option not in known:
            raise UserError(f"{where}{unknown('option', option, known)}")
        try:
            checked[option] = TypeAdapter(types.get(option, Any), config=FINITE).validate_python(value)
        except ValidationError as error:
            raise UserError(
                f"{where}{option} is {_cut(repr(value), 60)}: {error.errors()[0]['msg']}"
            ) from error
    return checked


def _require_names(info: DatasetInfo) -> None:
    """Modalities and heads name layers; torch keeps some names for itself.

    Raises:
        UserError: one of those.
    """
    from torch import nn  # takes long to import, and who lists models needs no layers

    for name in (*(m.name for m in info.modalities), *(h.name for h in info.heads)):
        if hasattr(nn.ModuleDict, name):
            raise UserError(
                f"{info.name}: no net of this package can have a layer called {name!r}, which torch uses; "
                "rename the modality or head"
            )


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


def config_from_card(card: Mapping[str, Any], where: str) -> ModelConfig:
    """The config a card says its weights were trained with.

    Raises:
        UserError: an option that is none.
    """
    return build(ModelConfig, {k: v for k, v in card["model"].items() if k != "label"}, where)


def card_model(config: ModelConfig) -> dict[str, Any]:
    """A model's config as a card and a record repeat it; the usual is not said of ``added`` and ``seed``."""
    said = asdict(config)
    for name in ("added", "seed"):
        if not said[name]:
            del said[name]
    return {"label": config.label, **said}
