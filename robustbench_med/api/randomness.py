"""Where the random layers of a model get their draws from.

Layers never touch torch's global generator: foreign attack libraries reseed it, which would silently
freeze a random defense, and the harness must be able to say which draws an attack saw and that scoring
saw others.

In an evaluation the draws of a layer that draws per element are *keyed*: every row of a pass has a key,
made from (seed, sample id, purpose, step, draw, lane), and a stream of its own, of which the layers take
one slice after another. What a sample meets then depends on nothing but the sample: not on the size or
order of batches, nor on workers. Draws that a layer shares within a batch depend on all keys of the pass.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_med.util.seeding import derive

# Sizes of the blocks that a row's stream consists of: what comes out must not depend on how much is taken
# at a time. Small first, so that small nets pay little; the last one goes on.
BLOCKS = (64, 256, 1024, 4096, 8192)


class _Stream:
    """Generators, one a device, that start from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]


class _Rows:
    """One kind of draws for the rows of a pass, (B, …), each row's from a generator of its own.

    Drawn on the CPU, so that no draw depends on the device.

    Args:
        fill: fills a row of a block in place from a generator.
    """

    def __init__(self, seeds: Sequence[int], fill: Callable[[Tensor, torch.Generator], Any]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._fill = fill
        self._buffer = torch.empty(len(seeds), 0)
        self._drawn = self._taken = self._blocks = 0

    def take(self, count: int) -> Tensor:
        """The next ``count`` numbers of every row, (B, count)."""
        start, self._taken = self._taken, self._taken + count
        while self._drawn < self._taken:
            self._draw_block(self._taken - self._drawn)
        return self._buffer[:, start : self._taken]

    def _draw_block(self, wanted: int) -> None:
        size = BLOCKS[min(self._blocks, len(BLOCKS) - 1)]
        end = self._drawn + size
        if end > self._buffer.shape[1]:
            longer = torch.empty(
                len(self._buffer), max(2 * self._buffer.shape[1], self._drawn + wanted + size)
            )
            longer[:, : self._drawn] = self._buffer[:, : self._drawn]
            self._buffer = longer
        for row, generator in zip(self._buffer, self._generators, strict=True):
            self._fill(row[self._drawn : end], generator)
        self._drawn, self._blocks = end, self._blocks + 1


class _Pass:
    """The draws of one keyed pass."""

    def __init__(self, keys: tuple[int, ...]) -> None:
        self.normal = _Rows([derive(key, "normal") for key in keys], _standard_normal)
        self.uniform = _Rows([derive(key, "uniform") for key in keys], _uniform)
        self.shared = _Stream(derive(0, "shared", *keys))


def _standard_normal(row: Tensor, generator: torch.Generator) -> None:
    row.normal_(generator=generator)


def _uniform(row: Tensor, generator: torch.Generator) -> None:
    row.uniform_(generator=generator)


class NoiseSource:
    """The draws of all random layers of one model.

    It is in one of two states. After ``key`` the rows of a pass have keys, and passes with the same keys
    have the same draws. After ``reseed`` all draws come from one stream, in the order of the passes, as
    training wants them.

    Attributes:
        scale: factor on every normal draw; 1 except while training warms the noise up, and 0 in the
            noise-off twin (docs/method.md: a surrogate of the transfer attack).
        recorded: draws by layer name to return instead of fresh ones (parity tests).
    """

    def __init__(self) -> None:
        self.scale = 1.0
        self.recorded: Mapping[str, Tensor] = {}
        self._fresh = _Stream(0)
        self._frozen: _Stream | None = None
        self._keys: tuple[int, ...] | None = None
        self._pass: _Pass | None = None

    def reseed(self, seed: int) -> None:
        """Start a stream: the draws that follow depend on ``seed`` alone (but not while frozen)."""
        self._fresh, self._keys, self._pass = _Stream(seed), None, None

    def key(self, keys: Sequence[int]) -> None:
        """Name the draws of the passes that follow, one key a row (but not while frozen)."""
        self._keys, self._pass = tuple(keys), None

    @property
    def keys(self) -> tuple[int, ...] | None:
        """What ``key`` was told last; None in a stream."""
        return self._keys

    @contextmanager
    def rows(self, index: Sequence[int]) -> Iterator[None]:
        """Give the rows of a pass the keys of others for a while: a sample that is asked twice."""
        kept = self._keys
        if kept is not None:
            self._keys = tuple(kept[i] for i in index)
        try:
            yield
        finally:
            self._keys = kept

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let somebody else ask the model, on other draws; the stream goes on afterwards where it was."""
        kept = self._fresh, self._keys, self._pass
        self._fresh = _Stream(self._fresh.seed)
        try:
            yield
        finally:
            self._fresh, self._keys, self._pass = kept

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
        """Start a recorded or keyed draw over; models call it before each forward pass."""
        self._pass = None
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
        rows = None if shared else self._rows(shape)
        if rows is not None:
            return rows.normal.take(_row_size(shape)).mul(std * self.scale).view(shape).to(like)

        def fill(out: Tensor, generator: torch.Generator) -> Tensor:
            return out.normal_(0.0, std * self.scale, generator=generator)

        return self._draw(shape, like, shared, fill)

    def keep(self, shape: torch.Size, probability: float, like: Tensor) -> Tensor:
        """A 0/1 mask (B, ...) that keeps each element with ``probability`` (all, if switched off)."""
        if self.off:
            return like.new_ones(shape)
        rows = self._rows(shape)
        if rows is not None:
            return (rows.uniform.take(_row_size(shape)) < probability).view(shape).to(like)

        def fill(out: Tensor, generator: torch.Generator) -> Tensor:
            return out.bernoulli_(probability, generator=generator)

        return self._draw(shape, like, False, fill)

    def integer(self, low: int, high: int) -> int:
        """A uniform integer in [low, high), one for all samples of a pass."""
        generator = self._shared(torch.device("cpu"))
        return int(torch.randint(low, high, (), generator=generator))

    @property
    def off(self) -> bool:
        """True in the noise-off twin."""
        return self.scale == 0

    @property
    def is_frozen(self) -> bool:
        """True inside ``frozen``."""
        return self._frozen is not None

    def _rows(self, shape: torch.Size | tuple[int, ...]) -> _Pass | None:
        """The keyed draws of this pass; None while frozen or in a stream."""
        if self._frozen is not None or self._keys is None:
            return None
        if shape[0] != len(self._keys):
            raise RuntimeError(f"a random layer draws for {shape[0]} rows in a pass of {len(self._keys)}")
        return self._this_pass()

    def _this_pass(self) -> _Pass:
        if self._pass is None:
            self._pass = _Pass(self._keys or ())
        return self._pass

    def _shared(self, device: torch.device) -> torch.Generator:
        """The generator of draws that one pass shares."""
        if self._frozen is not None:
            return self._frozen.on(device)
        return (self._fresh if self._keys is None else self._this_pass().shared).on(device)

    def _draw(
        self,
        shape: torch.Size | tuple[int, ...],
        like: Tensor,
        shared: bool,
        fill: Callable[[Tensor, torch.Generator], Tensor],
    ) -> Tensor:
        if self._frozen is None and self._keys is None:
            fresh = torch.empty(shape, device=like.device, dtype=like.dtype)
            return fill(fresh, self._fresh.on(like.device))
        # Devices draw differently from one seed; what is recorded or keyed must not depend on them.
        one = torch.empty(tuple(shape) if shared else (1, *shape[1:]))
        return fill(one, self._shared(one.device)).to(like).expand(shape)


@contextmanager
def isolated(seed: int, device: torch.device, graded: bool = True) -> Iterator[None]:
    """Seed every global generator that somebody else's code may draw from, and put all back afterwards.

    Args:
        graded: whether gradients are recorded meanwhile.
    """
    devices = [device] if device.type == "cuda" else []
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices), torch.set_grad_enabled(graded):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _row_size(shape: torch.Size | tuple[int, ...]) -> int:
    return torch.Size(shape[1:]).numel()


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


class Dropout(RandomLayer):
    """Dropout that may be left on at inference; its masks are then drawn per element.

    Args:
        rate: share of the elements set to 0; the others are scaled by 1 / (1 - rate).
    """

    def __init__(self, rate: float, at_inference: bool) -> None:
        super().__init__()
        self.rate, self.at_inference = rate, at_inference

    @property
    def is_random(self) -> bool:
        return self.at_inference and self.rate > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_random or self.noise.off:
            return nn.functional.dropout(x, self.rate, self.training)
        return x * self.noise.keep(x.shape, 1 - self.rate, x) / (1 - self.rate)
