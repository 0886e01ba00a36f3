"""Where the random layers of a model get their draws from.

Layers never touch torch's global generator: foreign attack libraries reseed it, which would
silently freeze a random defense, and the harness must be able to say which draws an attack saw
and that scoring saw others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


class _Stream:
    """Generators, one a device, that start from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


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
        self._fresh = _Stream(0)
        self._frozen: _Stream | None = None

    def reseed(self, seed: int) -> None:
        """Start a new stream: the draws that follow depend on ``seed`` alone (but not while frozen)."""
        self._fresh = _Stream(seed)

    @contextmanager
    def frozen(self, seed: int) -> Iterator[None]:
        """Give every forward pass the draw recorded under ``seed``.

        One draw then serves every sample of every batch, whatever the batch size and the device;
        the model is deterministic. The stream of fresh draws goes on afterwards where it was.
        """
        outer, self._frozen = self._frozen, _Stream(seed)
        try:
            yield
        finally:
            self._frozen = outer

    def begin_pass(self) -> None:
        """Start the recorded draw over; models call it before each forward pass."""
        if self._frozen is not None:
            self._frozen = _Stream(self._frozen.seed)

    def normal(
        self,
        name: str,
        shape: torch.Size | tuple[int, ...],
        std: float,
        like: Tensor,
        shared: bool = False,
    ) -> Tensor:
        """A draw from N(0, (scale * std)²), on the device and in the dtype of ``like``.

        Args:
            shared: the first axis of ``shape`` is not the batch, so one draw serves all samples.
        """
        if name in self.recorded:
            return self.recorded[name].to(like)
        if self.off:
            return like.new_zeros(shape)

        def fill(out: Tensor, generator: torch.Generator) -> Tensor:
            return out.normal_(0.0, std * self.scale, generator=generator)

        return self._draw(shape, like, shared, fill)

    def keep(self, shape: torch.Size, probability: float, like: Tensor) -> Tensor:
        """A 0/1 mask (B, ...) that keeps each element with ``probability`` (all, if switched off)."""
        if self.off:
            return like.new_ones(shape)

        def fill(out: Tensor, generator: torch.Generator) -> Tensor:
            return out.bernoulli_(probability, generator=generator)

        return self._draw(shape, like, False, fill)

    def integer(self, low: int, high: int) -> int:
        """A uniform integer in [low, high), one for all samples of a pass."""
        generator = (self._frozen or self._fresh).on(torch.device("cpu"))
        return int(torch.randint(low, high, (), generator=generator))

    @property
    def off(self) -> bool:
        """True in the noise-off twin."""
        return self.scale == 0

    @property
    def is_frozen(self) -> bool:
        """True inside ``frozen``."""
        return self._frozen is not None

    def _draw(
        self,
        shape: torch.Size | tuple[int, ...],
        like: Tensor,
        shared: bool,
        fill: Callable[[Tensor, torch.Generator], Tensor],
    ) -> Tensor:
        if self._frozen is None:
            fresh = torch.empty(shape, device=like.device, dtype=like.dtype)
            return fill(fresh, self._fresh.on(like.device))
        # Devices draw differently from one seed; what is recorded must not depend on them.
        one = torch.empty(tuple(shape) if shared else (1, *shape[1:]))
        return fill(one, self._frozen.on(one.device)).to(like).expand(shape)


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
