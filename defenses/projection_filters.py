"""Random projection filters (RPF): Dong & Xu, CVPR 2023, and as MAIL's authors put them into EMILA."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from robustbench_med.api import Defense, FusionModel, RandomLayer, UserError, generator

Layout = Literal["appended", "replaced"]
Draw = Literal["forward", "frozen"]

HOOKS = {"branches": "convolution", "stem": "stem-convolution"}


@dataclass(frozen=True)
class ProjectionFilters(Defense):
    """Part of the filters of each convolution become random kernels.

    Kernels are N(0, 1/k²) for a k×k filter, have no bias, and are shared by the batch. Dong & Xu
    put 75 % of them into the first convolution only (``where="stem"``, ``ratio=0.75``); MAIL's
    authors put them into every branch of EMILA.

    Attributes:
        ratio: share of the filters that are random, 0 to 1. 0, as in the released Robust-MAIL,
            changes nothing; its authors' earlier definition had 0.25.
        layout: "appended" puts the random filters last (the release's effective definition);
            "replaced" keeps every trained kernel and overrides the last ones, of each group in a
            grouped convolution (the release's overridden first definition).
        draw: "forward" draws the kernels anew at every forward pass, "frozen" once for all (they are
            then a fixed part of the net, which is deterministic).
        seed: of the frozen kernels.
        where: "branches" is every convolution at the model's hook "convolution", "stem" the first
            one of each modality.
    """

    ratio: float = 0.25
    layout: Layout = "appended"
    draw: Draw = "forward"
    seed: int = 0
    where: Literal["branches", "stem"] = "branches"

    def apply(self, model: FusionModel) -> None:
        if not 0 <= self.ratio < 1:
            raise UserError(f"projection-filters: ratio is {self.ratio:g}; it must be in [0, 1)")
        sites = model.sites(HOOKS[self.where])
        if not sites:
            raise model.no_such_hook(HOOKS[self.where], "projection-filters")
        for site in sites:
            layer = model.get_submodule(site)
            if not (hasattr(layer, "like") and hasattr(layer, "convolve")):
                raise UserError(
                    f"projection-filters does not know the layer at {site}; it needs one that convolves with "
                    "other kernels"
                )
            conv = cast(Convolution, layer)
            # At least one filter stays trained, however narrow the net.
            count = min(round(self.ratio * conv.out_channels), conv.out_channels - 1)
            if count:
                random = randomized(conv, count, self.layout)
                random.frozen_seed = self.seed if self.draw == "frozen" else None
                model.install(site, random)


class Convolution(Protocol):
    """What a layer at the hooks "convolution" and "stem-convolution" can do."""

    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor: ...

    def like(self, inputs: int, outputs: int, groups: int) -> Convolution:
        """A convolution of the same kernel, stride and padding."""

    def start_like_keras(self) -> None:
        """Draw start values."""

    def convolve(self, x: Tensor, kernels: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve with other kernels at this layer's stride and padding."""


def randomized(conv: Convolution, count: int, layout: Layout = "appended") -> RandomKernels:
    """``conv`` with ``count`` of its filters random, its start values taken over."""
    if layout == "replaced":
        return ReplacedFilters(conv, count)
    return AppendedDepthwise(conv, count) if _is_depthwise(conv) else AppendedFilters(conv, count)


def _is_depthwise(conv: Convolution) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels and conv.kernel_size[0] > 1


class RandomKernels(RandomLayer):
    """A convolution with random kernels.

    Attributes:
        frozen_seed: of the one draw for all forward passes; None draws anew at each.
    """

    shared_by = "batch"
    frozen_seed: int | None = None

    @property
    def is_random(self) -> bool:
        return self.frozen_seed is None

    def draw(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Kernels of a shape (K, C, k, k)."""
        if self.frozen_seed is None:
            return self.noise.normal(f"{self.site}.kernel", shape, 1 / shape[-1], like, shared=True)
        # Not from the noise source: frozen kernels are a part of the net, also when noise is switched off.
        stream = generator(self.frozen_seed, "projection-filters", self.site)
        return torch.empty(shape).normal_(0.0, 1 / shape[-1], generator=stream).to(like)


class AppendedFilters(RandomKernels):
    """A (grouped) convolution whose last ``count`` filters are random and see all input channels."""

    def __init__(self, conv: Convolution, count: int) -> None:
        super().__init__()
        trained = conv.out_channels - count
        # Trained and random filters each split into the groups; narrow nets must use fewer.
        groups = math.gcd(conv.groups, trained, count)
        kernel = conv.kernel_size[0]
        self.trained = conv.like(conv.in_channels, trained, groups)
        self.kernel_shape = (count, conv.in_channels // groups, kernel, kernel)
        if groups == conv.groups:
            _take_over(self.trained, conv, trained)
        else:
            self.trained.start_like_keras()

    def forward(self, x: Tensor) -> Tensor:
        kernels = self.draw(self.kernel_shape, x)
        return torch.cat([self.trained(x), self.trained.convolve(x, kernels)], 1)


class AppendedDepthwise(RandomKernels):
    """A depthwise convolution whose last ``count`` channels have random kernels."""

    def __init__(self, conv: Convolution, count: int) -> None:
        super().__init__()
        trained = conv.out_channels - count
        kernel = conv.kernel_size[0]
        self.trained = conv.like(trained, trained, trained)
        self.kernel_shape = (count, 1, kernel, kernel)
        _take_over(self.trained, conv, trained)

    def forward(self, x: Tensor) -> Tensor:
        first, last = torch.split(x, [self.trained.out_channels, self.kernel_shape[0]], 1)
        kernels = self.draw(self.kernel_shape, x)
        return torch.cat([self.trained(first), self.trained.convolve(last, kernels)], 1)


class ReplacedFilters(RandomKernels):
    """All filters are trained; random kernels override the last ``count`` of them.

    In a grouped convolution the last filters of every group are overridden and lose their bias;
    in a depthwise one the last channels are, and keep it.
    """

    mask: Tensor

    def __init__(self, conv: Convolution, count: int) -> None:
        super().__init__()
        self.trained = conv
        self.keeps_bias = _is_depthwise(conv)
        groups = 1 if self.keeps_bias else conv.groups
        per_group, random = conv.out_channels // groups, round(count / groups)
        mask = torch.zeros(conv.out_channels, dtype=torch.bool).view(groups, per_group)
        mask[:, per_group - random :] = True
        self.register_buffer("mask", mask.view(-1, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.trained.weight, self.trained.bias
        kernels = torch.where(self.mask, self.draw(tuple(weight.shape), x), weight)
        if bias is not None and not self.keeps_bias:
            bias = bias.masked_fill(self.mask.view(-1), 0)
        return self.trained.convolve(x, kernels, bias)


def _take_over(new: Convolution, old: Convolution, filters: int) -> None:
    """Start ``new`` from the first ``filters`` filters of ``old``."""
    with torch.no_grad():
        new.weight.copy_(old.weight[:filters])
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias[:filters])
