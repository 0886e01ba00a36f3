"""Where the random layers of a model get their draws from.

Layers never touch torch's global generator: foreign attack libraries reseed it, which would
silently freeze a random defense, and the harness must be able to say which draws an attack saw
and that scoring saw others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn


class NoiseSource:
    """The stream of draws shared by all random layers of one model.

    Attributes:
        scale: factor on every normal draw; 1 except while training warms the noise up, and 0 in
            the noise-off twin (evaluation.md, section 1: the surrogate of a transfer attack).
        recorded: draws by layer name to return instead of fresh ones (parity tests).
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self.recorded: Mapping[str, Tensor] = {}
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seed = 0

    def reseed(self, seed: int) -> None:
        """Start a new stream: the draws that follow depend on ``seed`` alone."""
        self._seed = seed
        self._generators.clear()

    def normal(self, name: str, shape: torch.Size | tuple[int, ...], std: float, like: Tensor) -> Tensor:
        """A fresh draw from N(0, (scale * std)²), on the device and in the dtype of ``like``."""
        if name in self.recorded:
            return self.recorded[name].to(like)
        if self.off:
            return like.new_zeros(shape)
        draw = torch.empty(shape, device=like.device, dtype=like.dtype)
        return draw.normal_(0.0, std * self.scale, generator=self._generator(like.device))

    def keep(self, shape: torch.Size, probability: float, like: Tensor) -> Tensor:
        """A fresh 0/1 mask that keeps each element with ``probability`` (all, if switched off)."""
        if self.off:
            return like.new_ones(shape)
        draw = torch.empty(shape, device=like.device, dtype=like.dtype)
        return draw.bernoulli_(probability, generator=self._generator(like.device))

    @property
    def off(self) -> bool:
        """True in the noise-off twin."""
        return self.scale == 0

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


class RandomLayer(nn.Module):
    """A layer whose output changes from one forward pass to the next, at inference too.

    Attributes:
        shared_by: "batch" when one draw serves all samples of a forward pass (their outcomes are
            then dependent, and intervals are computed by draw), "element" when each sample has
            its own.
        noise: set when the layer is put into a model; shared by the whole model.
        site: the layer's dotted name in the model, the key of its recorded draws.
    """

    shared_by: Literal["batch", "element"] = "element"

    def __init__(self) -> None:
        super().__init__()
        self.noise = NoiseSource()
        self.site = ""

    @property
    def is_random(self) -> bool:
        """False when the layer's parameters make it deterministic (noise of size 0)."""
        return True
