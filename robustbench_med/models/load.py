"""Trained models, ready to be evaluated."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from robustbench_med.api.data import Split
from robustbench_med.api.model import FusionModel
from robustbench_med.data.catalog import load_dataset, short_name
from robustbench_med.models.bound import Bound, Looked, look
from robustbench_med.models.cards import trained_model
from robustbench_med.models.code import fingerprint, made_by, with_options
from robustbench_med.models.foreign import Foreign
from robustbench_med.models.keras_nets import is_keras
from robustbench_med.models.layout import lay_channels_last, lies_channels_last
from robustbench_med.models.named import (
    DefenseConfig,
    ModelConfig,
    build_model,
    config_from_card,
    is_code,
    is_label,
    is_path,
    make_defense,
    model_config,
)
from robustbench_med.models.state import load_state
from robustbench_med.models.weights import (
    card_beside,
    default_weights,
    load_weights,
    read_card,
    require_own_card,
    require_same_split,
)
from robustbench_med.models.wrap import Wrap
from robustbench_med.util.config import build
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, read_json, sha256_file

SAMPLES_LOOKED_AT = 3


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be evaluated, and where it came from.

    Attributes:
        model: in evaluation mode. Whoever wants answers asks a copy (``fresh``).
        weights: the file, None where the weights are in memory; and the SHA-256 of what they are.
        card: the model card beside the weights ({} when there is none).
        caveats: what a reader of a number of this model must know about its training.
    """

    model: FusionModel
    config: ModelConfig
    weights: Path | None
    weights_sha256: str
    card: Mapping[str, Any]
    caveats: tuple[str, ...] = ()

    def fresh(self) -> FusionModel:
        """A copy that was never asked anything."""
        return copy.deepcopy(self.model).requires_grad_(False)


def load_model(
    model: str,
    dataset: str = "phantom",
    weights: str | None = None,
    device: str = "cpu",
    whole: Split | None = None,
    defenses: Sequence[DefenseConfig] = (),
    options: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """A trained model, ready to be evaluated.

    Args:
        model: a model's name, the path of a config, or code that makes one ("file.py:make"). By name, the
            card beside the weights says what exactly was trained (its width, its defenses' parameters); a
            config's own words stand, so that a defense's parameters can be changed.
        whole: the data set's test split, if it is at hand already.
        defenses: put on top of the model's own, in this order.
        options: how code that makes a net is called, see ``models.wrap.wrap``.

    Raises:
        UserError: unknown model or defense, missing or foreign weights.
    """
    whole = whole or load_dataset(dataset, "test")
    named = ModelConfig("code", model) if is_code(model) else model_config(model)
    file = given_path(weights) if weights is not None else None
    if is_code(named.architecture):
        return _from_code(
            replace(named, options={**named.options, **(options or {})}), whole, file, device, defenses
        )
    if options:
        raise UserError(f"{model} is a model of this package; {', '.join(options)} are for nets of your own")
    path = file or default_weights(model if is_label(model) else named.name, short_name(dataset), whole)
    card = read_card(path)
    config = named if is_path(model) or not card else config_from_card(card, str(path.with_suffix(".json")))
    if config.name != named.name:
        raise UserError(
            f"{path} holds weights of {config.name!r}, not {named.name!r}; say --model {config.name}"
        )
    try:
        return _built(config.with_defenses(defenses), path, card, whole, device)
    except UserError:
        require_same_split(card, path, whole)  # a part of the data may have fewer columns or classes
        raise


def _built(
    config: ModelConfig, path: Path, card: Mapping[str, Any], whole: Split, device: str
) -> LoadedModel:
    net = on_device(build_model(config, whole.info), device)
    load_weights(net, path)
    sha256 = sha256_file(path)
    require_own_card(card, path, sha256)
    return LoadedModel(_laid_out(net, device).eval(), config, path, sha256, card)


def load_recorded(
    said: Mapping[str, Any], whole: Split, weights: Path | None, device: str, where: str
) -> LoadedModel:
    """The model that a record speaks of, by what it says of it; no file but the weights is asked.

    Args:
        said: the record's "model".
        weights: the file; None for a net of somebody's code that brings its own.

    Raises:
        UserError: see ``load_model``; a record that says of no model how it is built.
    """
    names = {each.name for each in fields(ModelConfig)}
    config = build(ModelConfig, {name: said[name] for name in names & set(said)}, where)
    if is_code(config.architecture):
        return _from_code(config, whole, weights, device, ())
    if weights is None:
        raise UserError(f"{where}: the weights of {config.name} are not at hand; give --weights")
    return _built(config, weights, read_card(weights), whole, device)


def _from_code(
    config: ModelConfig,
    whole: Split,
    weights: Path | None,
    device: str,
    defenses: Sequence[DefenseConfig],
) -> LoadedModel:
    """A net that somebody's code makes."""
    made = made_by(config.architecture)
    if isinstance(made, type):  # written for this package
        net = made(whole.info.modalities, whole.info.heads, **config.options)
        if weights is not None:
            load_weights(net, weights)
        name = made.__name__ if config.name == "code" else config.name
        config = replace(config, name=name).with_defenses(defenses)
        sha256, net = fingerprint(net, weights), _laid_out(on_device(net, device), device)
        return LoadedModel(net.eval(), config, weights, sha256, _card_of(weights))
    spec = with_options(made if isinstance(made, Wrap) else Wrap(made), config.options, config.architecture)
    if weights is not None:
        if isinstance(spec.module, Foreign) or is_keras(spec.module):
            raise UserError(
                f"{config.architecture}: a net of another framework brings its weights with it; drop "
                "--weights, or load them in the code that makes it"
            )
        if not isinstance(spec.module, nn.Module):
            raise UserError(f"{config.architecture} makes a function, into which no weights can be loaded")
        load_state(spec.module, weights)
    return wrapped(spec, whole, device, defenses, weights, config)


def wrapped(
    spec: Wrap,
    whole: Split,
    device: str = "cpu",
    defenses: Sequence[DefenseConfig] = (),
    weights: Path | None = None,
    config: ModelConfig | None = None,
    found: Looked | None = None,
) -> LoadedModel:
    """Somebody's net, called as it was said or as was found out on a few samples of the data.

    Args:
        weights: the file that its weights were loaded from, if they were.
        config: of a net that has a name; else the name of its class is its name.
        found: what those samples told, if they were asked already.

    Raises:
        UserError: see ``models.bound.look``; an unknown defense, or one that needs layers it does not have.
    """
    info, found = whole.info, found or looked(spec, whole)
    config = config or ModelConfig("code", spec.label)
    name = spec.label if config.name == "code" else config.name
    config = replace(config, name=name).with_defenses(defenses)
    net: FusionModel = _laid_out(found.bound(info.modalities, info.heads), device)
    for defense in config.added:
        make_defense(defense).apply(net)
    sha256 = fingerprint(found.spec.module, weights)
    return LoadedModel(on_device(net, device), config, weights, sha256, _card_of(weights), found.said)


def looked(spec: Wrap, whole: Split) -> Looked:
    """What a few samples of the data tell of somebody's net.

    Raises:
        UserError: see ``models.bound.look``.
    """
    index, info = np.arange(min(SAMPLES_LOOKED_AT, len(whole))), whole.info
    sample = {m.name: torch.from_numpy(whole.values(m.name, index)) for m in info.modalities}
    return look(spec, info.modalities, {h.name: h.columns for h in info.heads}, sample)


def for_training(config: ModelConfig, whole: Split, device: str) -> LoadedModel:
    """A net that somebody's code makes, with the start values that it comes with, to be trained.

    Raises:
        UserError: it cannot be trained, or see ``wrapped``.
    """
    made = made_by(config.architecture)
    if isinstance(made, type):
        return _from_code(config, whole, None, device, ())
    spec = with_options(made if isinstance(made, Wrap) else Wrap(made), config.options, config.architecture)
    if not isinstance(spec.module, nn.Module) or isinstance(spec.module, torch.jit.ScriptModule):
        raise UserError(f"{config.architecture} makes no net of torch; only such a net can be trained")
    loaded = wrapped(replace(spec, mode="eval"), whole, device, config=config)
    model = loaded.model
    if not isinstance(model, Bound) or not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"{config.architecture} has nothing to train: no parameter of it asks for a gradient")
    model.trainable = True
    return loaded


def own_state(model: FusionModel) -> dict[str, torch.Tensor]:
    """The weights as the code that made the net knows them."""
    net = model.net if isinstance(model, Bound) else model
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def _card_of(weights: Path | None) -> Mapping[str, Any]:
    """The card that a training here left beside weights; {} where there is none of theirs."""
    path = None if weights is None else card_beside(weights)
    if weights is None or path is None or not path.is_file() or trained_model(path) is None:
        return {}
    card: Mapping[str, Any] = read_json(path)
    said = card.get("weights")
    return card if isinstance(said, dict) and said.get("sha256") == sha256_file(weights) else {}


def _laid_out(model: FusionModel, device: str) -> FusionModel:
    """The model, its kernels channels-last where they may lie so (``models.layout``)."""
    if lies_channels_last(model.channels_last, device):
        lay_channels_last(model)
    return model


def on_device(model: FusionModel, device: str) -> FusionModel:
    """The model on a device by torch's name for it.

    Raises:
        UserError: there is no such device here.
    """
    try:
        if torch.device(device).type == "meta":
            raise UserError("device 'meta' computes nothing; take cpu or cuda")
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch lacks the backend
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
