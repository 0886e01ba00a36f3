"""Trained models, ready to be evaluated."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.model import FusionModel
from robustbench_med.data.catalog import load_dataset, short_name
from robustbench_med.models.named import DefenseConfig, ModelConfig, build_model, is_path, model_config
from robustbench_med.models.weights import (
    config_from_card,
    default_weights,
    load_weights,
    read_card,
    require_own_card,
)
from robustbench_med.util.errors import UserError
from robustbench_med.util.files import given_path, sha256_file


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be evaluated, and where it came from.

    Attributes:
        model: in evaluation mode. Whoever wants answers asks a copy (``fresh``).
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

    def fresh(self) -> FusionModel:
        """A copy that was never asked anything."""
        return copy.deepcopy(self.model).requires_grad_(False)


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
    path = given_path(weights) if weights else default_weights(named.name, short_name(dataset))
    card = read_card(path)
    config = named if is_path(model) or not card else config_from_card(card, str(path.with_suffix(".json")))
    if config.name != named.name:
        raise UserError(
            f"{path} holds weights of {config.name!r}, not {named.name!r}; say --model {config.name}"
        )
    config = config.with_defenses(defenses)
    net = on_device(build_model(config, info or load_dataset(dataset, "test").info), device)
    load_weights(net, path)
    sha256 = sha256_file(path)
    require_own_card(card, path, sha256)
    if net.channels_last and torch.device(device).type == "cpu":
        lay_channels_last(net)
    return LoadedModel(net.eval(), config, path, sha256, card)


def lay_channels_last(model: FusionModel) -> None:
    """Lay the kernels of two-dimensional convolutions out as CPUs are faster with, in place."""
    for parameter in model.parameters():
        if parameter.dim() == 4:  # to(), unlike contiguous(), also says so of kernels for which both are one
            parameter.data = parameter.data.to(memory_format=torch.channels_last)


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


def multiply_accumulates(model: FusionModel, info: DatasetInfo) -> int:
    """Of one forward pass of one sample, as deployed: a defense that asks the net n times counts n times.

    Args:
        model: a fresh copy, since it is asked.
    """
    rows = model.least
    device = next(model.parameters(), torch.empty(0)).device
    sample = {
        m.name: torch.as_tensor(m.low, dtype=torch.float32, device=device).expand(rows, *m.shape).clone()
        for m in info.modalities
    }
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(sample)
    return int(counter.get_total_flops()) // 2 // rows
