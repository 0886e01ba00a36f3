"""Layers that models and defenses share.

Those with weights follow Keras' conventions, so that released weights reproduce their outputs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_med.api.randomness import RandomLayer

BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.01  # Keras' 0.99, said the other way round
GATE_REDUCTION = 4


def batch_norm(features: int) -> nn.BatchNorm2d:
    """Batch normalisation with Keras' epsilon and momentum."""
    return nn.BatchNorm2d(features, eps=BATCH_NORM_EPSILON, momentum=BATCH_NORM_MOMENTUM)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis under "same" padding (asymmetric at even size, stride 2)."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """Pad (B, C, H, W) so that a valid window operation yields ceil(size / stride)."""
    top, bottom = same_padding(x.shape[-2], kernel, stride)
    left, right = same_padding(x.shape[-1], kernel, stride)
    if not (top or bottom or left or right):
        return x
    return F.pad(x, (left, right, top, bottom), value=value)


class SameConv2d(nn.Conv2d):
    """A square convolution with "same" padding."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        return conv2d_same(input, self.weight, self.bias, self.stride[0], crop=not self.training)


def conv2d_same(
    x: Tensor, kernels: Tensor, bias: Tensor | None = None, stride: int = 1, *, crop: bool = False
) -> Tensor:
    """Convolve (B, C, H, W) with square kernels (K, C / groups, k, k) under "same" padding.

    Args:
        crop: at stride 1, leave out taps that meet nothing but padding, as on a map smaller than
            the kernel. No value changes beyond rounding, and CPU kernels are many times slower
            where the padding is wider than the map. Off in training, for the sake of rounding:
            recipes go on giving the weights they gave.
    """
    size, groups = kernels.shape[-1], x.shape[1] // kernels.shape[1]
    if stride > 1:
        return F.conv2d(pad_same(x, size, stride), kernels, bias, stride, groups=groups)
    spare = max(size // 2 - max(x.shape[2:]) + 1, 0) if crop else 0
    used = kernels[..., spare : size - spare, spare : size - spare]
    return F.conv2d(x, used, bias, 1, size // 2 - spare, groups=groups)


class SameMaxPool2d(nn.Module):
    """Max-pooling over 3×3 windows at stride 2 with "same" padding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(pad_same(x, 3, 2, value=-math.inf), 3, 2)


class Stem(nn.Sequential):
    """Convolution 7×7 stride 2, batch norm, ReLU, max-pool 3 stride 2: (H, W) to (H/4, W/4)."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.conv = SameConv2d(channels, features, 7, stride=2)
        self.norm = batch_norm(features)
        self.act = nn.ReLU()
        self.pool = SameMaxPool2d()


class ChannelGate(nn.Module):
    """Scales the fused map by a channel attention and adds the shortcut: ReLU(shortcut + u·g).

    The released pooling (min + avg + max + sum) + (max - avg - min) is 2·max + sum: min and mean
    cancel. ``scale`` is the one trainable scalar on the gate's logits.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(features, max(features // GATE_REDUCTION, 1))
        self.excite = nn.Linear(self.squeeze.out_features, features)
        self.scale = nn.Parameter(torch.full((1,), 0.05))

    def logits(self, fused: Tensor) -> Tensor:
        """Gate logits before the scale: (B, C, H, W) to (B, C)."""
        pooled = 2 * fused.amax((2, 3)) + fused.sum((2, 3))
        out: Tensor = self.excite(F.relu(self.squeeze(pooled)))
        return out

    def forward(self, fused: Tensor, shortcut: Tensor) -> Tensor:
        gate = torch.sigmoid(self.scale * self.logits(fused))
        return F.relu(shortcut + fused * gate[:, :, None, None])


class Dropout(RandomLayer):
    """Dropout that may be left on at inference; its masks are then drawn per element.

    Args:
        rate: share of the elements set to 0; the others are scaled by 1 / (1 - rate).
    """

    shared_by = "element"

    def __init__(self, rate: float, at_inference: bool) -> None:
        super().__init__()
        self.rate, self.at_inference = rate, at_inference

    @property
    def is_random(self) -> bool:
        return self.at_inference and self.rate > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_random or self.noise.off:
            return F.dropout(x, self.rate, self.training)
        return x * self.noise.keep(x.shape, 1 - self.rate, x) / (1 - self.rate)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        del ctx, x
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        del ctx
        return gradients[0], None


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """``value`` with the gradient of ``x``: BPDA with the identity (Athalye et al. 2018, section 4.1).

    Args:
        x, value: of one shape; what comes back equals ``value`` bit for bit.
    """
    out: Tensor = _StraightThrough.apply(x, value.detach())  # type: ignore[no-untyped-call]
    return out


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """View the channels as (groups, C / groups), swap the two axes, flatten again."""
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


def start_like_keras(module: nn.Module) -> None:
    """Glorot-uniform kernels with Keras' fans and zero biases, in place.

    Keras counts a depthwise kernel (k, k, C, 1) as fan-in k²·C and fan-out k², so its start
    values are much smaller than PyTorch's; nets of this family learn worse without that.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            _glorot(layer.weight, *_fans(layer))
        elif isinstance(layer, nn.Linear):
            _glorot(layer.weight, layer.in_features, layer.out_features)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _fans(conv: nn.Conv2d) -> tuple[int, int]:
    area = conv.kernel_size[0] * conv.kernel_size[1]
    if conv.groups == conv.in_channels == conv.out_channels and area > 1:
        return area * conv.in_channels, area
    return area * conv.in_channels // conv.groups, area * conv.out_channels


def _glorot(weight: Tensor, fan_in: int, fan_out: int) -> None:
    limit = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)
