"""Named models: built from a config, with weights that are checked before they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BeforeValidator, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.api.registry import Registry
from robustbench_med.data.catalog import load_dataset
from robustbench_med.util.config import build, find, read_yaml, scalar, shipped
from robustbench_med.util.errors import UserError, unknown
from robustbench_med.util.fields import STRICT
from robustbench_med.util.files import (
    read_json,
    replacing,
    sha256_file,
)

ARCHITECTURES: Registry[type[FusionModel]] = Registry("architecture", "robustbench_med.models")
DEFENSES: Registry[type[Defense]] = Registry("defense", "robustbench_med.defenses")


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
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    for key, equals, _ in pairs:
        if not key or not equals:
            raise UserError(f"defense {value!r}: write NAME:OPTION=VALUE,OPTION=VALUE")
    return {"name": name, "options": {k.strip().replace("-", "_"): scalar(v) for k, _, v in pairs}}


DefenseSpec = Annotated[DefenseConfig, BeforeValidator(_parsed_defense)]
"""A ``DefenseConfig`` that flags and YAML may write as "gaussian-noise:sigma=0.1"."""


@dataclass(frozen=True)
class ModelConfig:
    """A named model: an architecture, its options, and the defenses it carries.

    Attributes:
        defenses: those it was trained with.
        added: those put on top of them afterwards.
    """

    name: str
    architecture: str
    title: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    defenses: tuple[DefenseSpec, ...] = ()
    added: tuple[DefenseSpec, ...] = ()

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
        """The name, with the width when it is not the published one, and with what was added:
        "mail-x0.25+gaussian-noise(sigma=0.1)".
        """
        width = self.options.get("width", 1)
        name = self.name if width == 1 else f"{self.name}-x{width:g}"
        return "+".join([name, *(defense.label for defense in self.added)])


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be evaluated, and where it came from.

    Attributes:
        weights: the file's path and SHA-256.
        card: the model card beside the weights ({} when there is none).
        caveats: what a reader of a number of this model must know about its training.
    """

    model: FusionModel
    config: ModelConfig
    weights: Path
    weights_sha256: str
    card: Mapping[str, Any]
    caveats: tuple[str, ...] = ()


def model_names() -> list[str]:
    """Names ``model_config`` knows: shipped configs and every installed architecture."""
    return sorted({*shipped("models"), *ARCHITECTURES.entries()})


def model_config(name: str) -> ModelConfig:
    """A model by its config's name or path; an architecture's own name means its defaults.

    Raises:
        UserError: unknown name, or a config that does not parse.
    """
    if name in ARCHITECTURES.entries() and name not in shipped("models"):
        return ModelConfig(name=name, architecture=name)
    if not name.endswith((".yaml", ".yml")) and name not in shipped("models"):
        raise unknown("model", name, model_names())
    path = find("model", "models", name)
    return build(ModelConfig, {"name": path.stem, **read_yaml(path)}, str(path))


def build_model(config: ModelConfig, info: DatasetInfo) -> FusionModel:
    """Build a model with fresh start values for a data set's modalities and tasks.

    Raises:
        UserError: unknown architecture, defense or option, or a defense that does not fit.
    """
    architecture: Callable[..., FusionModel] = ARCHITECTURES.get(config.architecture)
    channels = {m.name: m.shape[0] for m in info.modalities}
    classes = {t.name: len(t.classes) for t in info.tasks}
    try:
        model = architecture(channels, classes, **config.options)
    except TypeError as error:
        raise UserError(f"model {config.name}: {error}") from error
    for defense in (*config.defenses, *config.added):
        _defense(defense).apply(model)
    return model


def _defense(config: DefenseConfig) -> Defense:
    plugin = DEFENSES.get(config.name)
    if not is_dataclass(plugin):
        raise UserError(f"the defense {config.name!r} is not a dataclass; its author must make it one")
    return build(plugin, config.options, f"defense {config.name}")


def _completed(config: DefenseConfig) -> DefenseConfig:
    return replace(config, options=asdict(_defense(config)))  # type: ignore[call-overload]


def on_device(model: FusionModel, device: str) -> FusionModel:
    """The model on a device by torch's name for it.

    Raises:
        UserError: there is no such device here.
    """
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch lacks the backend
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def weight_folders() -> list[Path]:
    """Where weights are looked for: inside the package, then ``weights`` of the clone or folder."""
    package = Path(str(resources.files("robustbench_med")))
    return [package / "weights", package.parent / "weights", Path("weights")]


def trained_model(card: Path) -> str | None:
    """The name of the model a card beside some weights speaks of; None when it is no card."""
    content = read_json(card)
    model = content.get("model") if isinstance(content, dict) else None
    return model.get("name") if isinstance(model, dict) else None


def default_weights(model: str, dataset: str) -> Path:
    """The shipped weights of a model on a data set.

    Raises:
        UserError: there are none.
    """
    for folder in weight_folders():
        for card in sorted((folder / dataset).glob("*.json")):
            if trained_model(card) == model:
                return card.with_suffix(".safetensors")
    raise UserError(
        f"no weights of {model!r} on {dataset!r} are at hand; train them (robmed train) or give --weights"
    )


def read_card(weights: Path) -> dict[str, Any]:
    """The model card beside a weights file, {} when there is none.

    Raises:
        UserError: the file beside the weights is not a model card.
    """
    path = weights.with_suffix(".json")
    if not path.exists():
        return {}
    if trained_model(path) is None:
        raise UserError(f"{path} is not a model card; move it away or restore it")
    card: dict[str, Any] = read_json(path)
    return card


def load_weights(model: FusionModel, path: Path) -> None:
    """Load safetensors weights into ``model``.

    Raises:
        UserError: missing, truncated or foreign file, or weights of another architecture.
    """
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}); other formats are never read"
        ) from error
    own = model.state_dict()
    odd = sorted(set(own) ^ set(state)) or sorted(k for k in own if own[k].shape != state[k].shape)
    if odd:
        raise UserError(
            f"{path} holds weights of another architecture: {odd[0]!r} does not fit "
            f"({len(odd)} tensors in all); choose the --model they were trained for, and no --defense that "
            "changes weights"
        )
    nonfinite = sorted(k for k, v in state.items() if not torch.isfinite(v).all())
    if nonfinite:
        raise UserError(f"{path}: {nonfinite[0]!r} has NaN or infinite values; train again")
    model.load_state_dict(state)


def save_weights(model: FusionModel, path: Path) -> None:
    """Write the model's weights as safetensors, atomically."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary)


def multiply_accumulates(model: FusionModel, info: DatasetInfo) -> int:
    """Of one forward pass of one sample, as deployed: a defense that asks the net n times counts n times."""
    device = next(model.parameters(), torch.empty(0)).device
    sample = {m.name: torch.zeros(1, *m.shape, device=device) for m in info.modalities}
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(sample)
    return int(counter.get_total_flops()) // 2


def card_model(config: ModelConfig) -> dict[str, Any]:
    """A model's config as a card and a record repeat it; nothing added, nothing said of it."""
    said = asdict(config)
    if not config.added:
        del said["added"]
    return {"label": config.label, **said}


def config_from_card(card: Mapping[str, Any], where: str) -> ModelConfig:
    """The config a card says its weights were trained with.

    Raises:
        UserError: an option that is none.
    """
    return build(ModelConfig, {k: v for k, v in card["model"].items() if k != "label"}, where)


def load_model(
    model: str,
    dataset: str = "phantom",
    weights: str | None = None,
    device: str = "cpu",
    info: DatasetInfo | None = None,
    defenses: Sequence[DefenseConfig] = (),
) -> LoadedModel:
    """A trained model, ready to be evaluated.

    Args:
        model: a model's name, or the path of a config. By name, the card beside the weights says
            what exactly was trained (its width, its defenses' parameters); a config's own words
            stand, so that a defense's parameters can be changed.
        info: the data set's, if it is at hand already.
        defenses: put on top of the model's own, in this order.

    Raises:
        UserError: unknown model or defense, missing or foreign weights.
    """
    named = model_config(model)
    path = Path(weights) if weights else default_weights(named.name, dataset)
    card = read_card(path)
    by_path = model.endswith((".yaml", ".yml"))
    config = named if by_path or not card else config_from_card(card, str(path.with_suffix(".json")))
    if config.name != named.name:
        raise UserError(
            f"{path} holds weights of {config.name!r}, not {named.name!r}; say --model {config.name}"
        )
    config = config.with_defenses(defenses)
    net = on_device(build_model(config, info or load_dataset(dataset, "test").info), device)
    load_weights(net, path)
    if net.channels_last and torch.device(device).type == "cpu":
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedModel(net.eval(), config, path, sha256_file(path), card)
