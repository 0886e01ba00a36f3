"""Modalities of every kind, and the narrowest nets on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from narrow import NARROW
from tiny import CLASSES, asks, takes
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.api.model import FusionModel

Architecture = Callable[..., FusionModel]
LOW, HIGH = np.array([-1, 0, 5], np.float32), np.array([1, 10, 50], np.float32)
SCALE = (HIGH - LOW) / np.float32(4)
TABLE = Modality("record", (3,), kind="table", low=LOW, high=HIGH, scale=SCALE)
SECOND = Modality("history", (2,), kind="table", low=0.0, high=2.0, scale=np.full(2, 0.5, np.float32))
THREE = takes({"x": 1, "y": (3, 48, 40), "z": 2})
ALIKE = takes({"x": 1, "y": 3, "z": 2})
MIXED = (
    *takes({"x": 1}),
    Modality("volume", (1, 16, 16, 16), kind="volume"),
    Modality("signal", (2, 64), kind="signal", low=-1.0),
    TABLE,
)


def net(of: Architecture, modalities: tuple[Modality, ...], **options: Any) -> FusionModel:
    torch.manual_seed(0)
    heads = asks(CLASSES, tuple(m.name for m in modalities))
    return of(modalities, heads, width=NARROW, **options).eval()


def sample(modalities: tuple[Modality, ...], count: int = 3) -> dict[str, Tensor]:
    """Values in their ranges; the same for the same modalities."""
    stream = torch.Generator().manual_seed(0)
    drawn = {m.name: torch.rand(count, *m.shape, generator=stream) for m in modalities}
    return {m.name: drawn[m.name] * torch.tensor(m.high - m.low) + torch.tensor(m.low) for m in modalities}


def wake(model: nn.Module) -> None:
    """Move the statistics of batch norm off their start, so that they cannot hide a fault."""
    stream = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):  # around 0: well above it, every ReLU would be shut
            buffer.uniform_(-0.1, 0.1, generator=stream)
        elif name.endswith("running_var"):
            buffer.uniform_(0.1, 0.5, generator=stream)
