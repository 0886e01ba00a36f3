"""Layers that models share, after Keras' conventions, so that released weights reproduce their outputs."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.01  # Keras' 0.99, said the other way round


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
        return self.convolve(input, self.weight, self.bias)

    def convolve(self, x: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve with other kernels (K, C / groups, k, k) at this layer's stride and padding."""
        return conv2d_same(x, kernels, bias, self.stride[0], crop=not self.training)

    def like(self, inputs: int, outputs: int, groups: int) -> SameConv2d:
        """A convolution of the same kernel, stride and padding."""
        size, stride, bias = self.kernel_size[0], self.stride[0], self.bias is not None
        return SameConv2d(inputs, outputs, size, stride, groups, bias)

    def start_like_keras(self) -> None:
        """Draw the start values that Keras would."""
        start_like_keras(self)


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


def start_like_keras(module: nn.Module) -> None:
    """Glorot-uniform kernels with Keras' fans and zero biases, in place.

    Keras counts a depthwise kernel (k, k, C, 1) as fan-in k²·C and fan-out k², so its start
    values are much smaller than PyTorch's; nets of this family learn worse without that.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            _glorot(layer.weight, *_fans(layer))
        elif isinstance(layer, nn.Linear):
            _glorot(layer.weight, layer.in_features, layer.out_features)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _fans(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[int, int]:
    area = math.prod(conv.kernel_size)
    if conv.groups == conv.in_channels == conv.out_channels and area > 1:
        return area * conv.in_channels, area
    return area * conv.in_channels // conv.groups, area * conv.out_channels


def _glorot(weight: Tensor, fan_in: int, fan_out: int) -> None:
    limit = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)
