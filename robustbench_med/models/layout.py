"""How images lie in memory: channels-last, which CPUs are faster with, where a net does not care.

A net's layers and answers decide, never a timing: the same net is laid out the same everywhere.
"""

from __future__ import annotations

import torch
from torch import nn


def may_lie_channels_last(net: nn.Module) -> bool:
    """Whether a net has two-dimensional convolutions that can be laid out; those of a script are fixed."""
    return not isinstance(net, torch.jit.ScriptModule) and any(
        isinstance(layer, nn.Conv2d) for layer in net.modules()
    )


def lies_channels_last(channels_last: bool, device: str) -> bool:
    """Whether a model that may lie so does: on CPUs alone."""
    return channels_last and torch.device(device).type == "cpu"


def lay_channels_last(net: nn.Module) -> None:
    """Lay the kernels of two-dimensional convolutions channels-last, in place; images follow them."""
    for parameter in net.parameters():
        if parameter.dim() == 4:  # to(), unlike contiguous(), also says so of kernels for which both are one
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
