"""The narrowest nets of the shipped architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tiny import CLASSES, asks, takes
from torch import Tensor

from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.api.registry import Registry
from robustbench_med.models.mail import MAIL

DEFENSES: Registry[Callable[..., Defense]] = Registry("defense", "robustbench_med.defenses")
NARROW = 1 / 32
TWO = {"x": 1, "y": 3}


def images(channels: Mapping[str, int], size: tuple[int, int] = (32, 32)) -> dict[str, Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {name: torch.rand(2, c, *size, generator=stream) for name, c in channels.items()}


def mail(*defenses: tuple[str, dict[str, Any]], **options: Any) -> FusionModel:
    """A narrow MAIL whose blocks are not shut, as they are before training."""
    torch.manual_seed(0)
    model = MAIL(takes(TWO), asks(CLASSES), width=NARROW, **options)
    for name, parameters in defenses:
        DEFENSES.get(name)(**parameters).apply(model)
    for name, parameter in model.named_parameters():
        if name.endswith("pointwise_norm.weight"):
            torch.nn.init.ones_(parameter)
    return model.eval().requires_grad_(False)
