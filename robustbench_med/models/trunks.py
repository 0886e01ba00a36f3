"""Trunks: from one modality of any kind to features, of one shape for all nets that fuse them.

Images, volumes and signals go through a ResNet-18-shaped trunk (He et al. 2016) of two-, three- or
one-dimensional convolutions; a table through two dense layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med.api.data import Modality
from robustbench_med.models.layers import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    SameConv2d,
    Stem,
    batch_norm,
)
from robustbench_med.util.errors import UserError

FULL_WIDTHS = (64, 128, 256, 512)
WIDEST = 16
CONVOLUTIONS = {1: nn.Conv1d, 3: nn.Conv3d}
POOLS = {1: nn.MaxPool1d, 3: nn.MaxPool3d}
NORMS = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}


def require_rate(dropout: float) -> None:
    """Make sure that a share of features can be dropped.

    Raises:
        UserError: it is no number from 0 on and below 1.
    """
    if isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise UserError(f"dropout is {dropout!r}; it must be a number from 0 on and below 1")


def scaled_widths(width: float) -> tuple[int, ...]:
    """The four stage widths at a width multiplier.

    Raises:
        UserError: a stage would not have an even whole number of channels, or the net would be vast.
    """
    if width > WIDEST:
        raise UserError(f"width {width:g} is more than {WIDEST} times the usual {FULL_WIDTHS[-1]} channels")
    widths = tuple(full * width for full in FULL_WIDTHS)
    if any(w < 2 or w % 2 for w in widths):
        raise UserError(
            f"width {width:g} gives stages of {', '.join(f'{w:g}' for w in widths)} channels; "
            "each must be even: choose a multiple of 1/32"
        )
    return tuple(int(w) for w in widths)


class BasicBlock(nn.Module):
    """The basic block of ResNet-18 (He et al. 2016): two convolutions of 3 a side, and a shortcut."""

    conv1: nn.Module
    conv2: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    shortcut: nn.Module

    def forward(self, x: Tensor, branch: Tensor | None = None) -> Tensor:
        """``branch`` is what the convolutions see; the shortcut, and without it they too, see ``x``."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x if branch is None else branch)))))
        return F.relu(y + self.shortcut(x))


class ResidualBlock(BasicBlock):
    """The basic block of two-dimensional convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = SameConv2d(inputs, outputs, 3, stride, bias=False), batch_norm(outputs)
        self.conv2, self.norm2 = SameConv2d(outputs, outputs, 3, bias=False), batch_norm(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                SameConv2d(inputs, outputs, 1, stride, bias=False), batch_norm(outputs)
            )


class ResidualBlockNd(BasicBlock):
    """The basic block of one- or three-dimensional convolutions."""

    def __init__(self, axes: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(axes, inputs, outputs, 3, stride), _norm(axes, outputs)
        self.conv2, self.norm2 = _conv(axes, outputs, outputs, 3, 1), _norm(axes, outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(axes, inputs, outputs, 1, stride), _norm(axes, outputs))


class Rescale(nn.Module):
    """Values of a modality to [0, 1]; of a table to units of its scale around the middle of its range."""

    start: Tensor
    span: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        low, high = (np.asarray(bound, np.float32) for bound in (modality.low, modality.high))
        table = modality.kind == "table"
        start, span = ((low + high) / 2, modality.unit) if table else (low, high - low)
        self.register_buffer("start", torch.tensor(np.array(start, np.float32)), persistent=False)
        self.register_buffer("span", torch.tensor(np.array(span, np.float32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.start) / self.span


class Pooled(nn.Module):
    """The mean over all axes but batch and channels: (B, C, …) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(2, x.dim()))) if x.dim() > 2 else x


def trunk(modality: Modality, widths: Sequence[int]) -> nn.Sequential:
    """From (B, *shape) to a map (B, widths[-1], …); of a table to features (B, widths[-1])."""
    rescale = [] if modality.is_plain and modality.kind != "table" else [Rescale(modality)]
    if modality.kind == "table":
        return nn.Sequential(*rescale, *_dense(modality.shape[0], widths[-1]))
    axes = len(modality.shape) - 1
    stem = Stem(modality.shape[0], widths[0]) if axes == 2 else _stem(axes, modality.shape[0], widths[0])
    layers: list[nn.Module] = [*rescale, stem]
    for index, (inputs, outputs) in enumerate(zip((widths[0], *widths), widths, strict=False)):
        stride = 2 if index else 1
        layers += [_block(axes, inputs, outputs, stride), _block(axes, outputs, outputs, 1)]
    return nn.Sequential(*layers)


def stages(modality: Modality, widths: Sequence[int]) -> nn.ModuleList:
    """The layers of ``trunk`` in four parts, for nets whose modalities meet on the way.

    Part i ends in a map of ``stage_widths(modality, widths)[i]`` channels. A table, which has two layers,
    stays as it is in the two parts between them.
    """
    whole = trunk(modality, widths)
    if modality.kind == "table":
        return nn.ModuleList([whole[:-3], nn.Sequential(), nn.Sequential(), whole[-3:]])
    start = len(whole) - 2 * len(widths)
    cuts = [0, *range(start + 2, len(whole) + 1, 2)]
    return nn.ModuleList(whole[one:two] for one, two in itertools.pairwise(cuts))


def stage_widths(modality: Modality, widths: Sequence[int]) -> tuple[int, ...]:
    """The channels after each of the ``stages``."""
    return tuple(widths[-1] if modality.kind == "table" else width for width in widths)


def _block(axes: int, inputs: int, outputs: int, stride: int) -> nn.Module:
    if axes == 2:
        return ResidualBlock(inputs, outputs, stride)
    return ResidualBlockNd(axes, inputs, outputs, stride)


def _stem(axes: int, channels: int, features: int) -> nn.Sequential:
    conv = _conv(axes, channels, features, 7 if axes == 1 else 5, 2)
    return nn.Sequential(conv, _norm(axes, features), nn.ReLU(), POOLS[axes](3, 2, 1))


def _dense(features: int, outputs: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs in (features, outputs):
        layers += [nn.Linear(inputs, outputs), _norm(1, outputs), nn.ReLU()]
    return layers


def _conv(axes: int, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return CONVOLUTIONS[axes](inputs, outputs, kernel, stride, kernel // 2, bias=False)


def _norm(axes: int, features: int) -> nn.Module:
    return NORMS[axes](features, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)
