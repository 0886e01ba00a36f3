"""The geometry of perturbations, for samples of any rank: units, boxes, masks, lengths, points of balls.

A perturbation is measured in units of its modality (``Modality.unit``): the length of the range of an
image, a volume or a signal, the standard deviation of each feature of a table. In these units every ball
is round, whatever the values are. What an attacker may not change has no extent at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from robustbench_med.api.data import Modality

TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Box:
    """Which values a modality may have, in what unit changes are measured, and what may change.

    Attributes:
        low, high: the range, numbers or tensors that broadcast to one sample.
        unit: what a change of 1 is worth in values, likewise.
        mutable: where changes are allowed, bool, likewise; None for everywhere.
        open_ended: clean values may lie beyond the range (a table's); it then reaches to them.
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0
    unit: float | Tensor = 1.0
    mutable: Tensor | None = None
    open_ended: bool = False

    @classmethod
    def of(cls, modality: Modality) -> Box:
        """The box of a modality."""
        if modality.is_plain and modality.kind != "table":
            return PLAIN
        mutable = None if modality.mutable is None else torch.from_numpy(np.array(modality.mutable, bool))
        low, high, unit = (_number(bound) for bound in (modality.low, modality.high, modality.unit))
        return cls(low, high, unit, mutable, modality.kind == "table")

    def to(self, device: torch.device) -> Box:
        """The same on a device."""

        def moved(part: float | Tensor) -> float | Tensor:
            return part.to(device) if isinstance(part, Tensor) else part

        mutable = None if self.mutable is None else self.mutable.to(device)
        return Box(moved(self.low), moved(self.high), moved(self.unit), mutable, self.open_ended)

    @property
    def is_plain(self) -> bool:
        """Values from 0 to 1, measured in those, all of them free: what attack libraries know."""
        numbers = not any(isinstance(part, Tensor) for part in (self.low, self.high, self.unit))
        plain = numbers and (self.low, self.high, self.unit) == (0.0, 1.0, 1.0)
        return plain and self.mutable is None and not self.open_ended

    def lowest(self, clean: Tensor) -> float | Tensor:
        """The lower end for these samples."""
        return (
            torch.minimum(clean, torch.as_tensor(self.low, dtype=clean.dtype))
            if self.open_ended
            else self.low
        )

    def highest(self, clean: Tensor) -> float | Tensor:
        """The upper end for these samples."""
        return (
            torch.maximum(clean, torch.as_tensor(self.high, dtype=clean.dtype))
            if self.open_ended
            else self.high
        )

    def clamp(self, values: Tensor, clean: Tensor) -> Tensor:
        """``values`` put back into the range, and onto ``clean`` where nothing may change."""
        inside = clamp(values, self.lowest(clean), self.highest(clean))
        return inside if self.mutable is None else torch.where(self.mutable, inside, clean)

    def in_units(self, change: Tensor) -> Tensor:
        """A change of values in units, 0 where none is allowed."""
        scaled = change if _is_one(self.unit) else change / self.unit
        return scaled if self.mutable is None else scaled * self.mutable

    def in_values(self, change: Tensor) -> Tensor:
        """A change in units as one of values, 0 where none is allowed."""
        scaled = change if _is_one(self.unit) else change * self.unit
        return scaled if self.mutable is None else scaled * self.mutable

    def slope(self, gradient: Tensor) -> Tensor:
        """A gradient with respect to values as one with respect to units, 0 where no change is allowed."""
        return self.in_values(gradient)

    def extent(self, shape: torch.Size) -> int:
        """How many elements of a sample of this shape may change."""
        return shape.numel() if self.mutable is None else int(self.mutable.expand(shape).sum())

    def longest(self, shape: torch.Size, norm: str) -> float:
        """A radius, in units, within which every sample of the box lies."""
        unit, span = self.unit, self.high - self.low
        ratio = torch.as_tensor(span / unit).expand(shape)
        if self.mutable is not None:
            ratio = ratio * self.mutable
        return float(ratio.max() if norm == "linf" else torch.linalg.vector_norm(ratio.float()))


PLAIN = Box()


def clamp(values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """``values`` between two bounds, each a number or a tensor."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        lower = torch.as_tensor(low, dtype=values.dtype, device=values.device)
        upper = torch.as_tensor(high, dtype=values.dtype, device=values.device)
        return torch.minimum(torch.maximum(values, lower), upper)
    return values.clamp(low, high)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, …), so that it broadcasts over the samples of ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


def lengths(x: Tensor) -> Tensor:
    """L2 length of each sample, (B,)."""
    found: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return found


def joint_lengths(parts: Mapping[str, Tensor]) -> Tensor:
    """L2 length of each sample over all parts, (B,)."""
    found: Tensor = torch.linalg.vector_norm(torch.stack([lengths(part) for part in parts.values()]), dim=0)
    return found


def unit_vectors(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each sample brought to length 1 over all parts, however short; zeros stay zeros.

    A confident net's gradients are so short that their squares vanish in float32.
    """
    largest = torch.stack([part.abs().flatten(1).amax(1) for part in parts.values()]).amax(0)
    scale = largest.clamp_min(torch.finfo(largest.dtype).tiny)
    scaled = {name: part / per_sample(scale, part) for name, part in parts.items()}
    length = joint_lengths(scaled).clamp_min(TINY)
    return {name: part / per_sample(length, part) for name, part in scaled.items()}


def ball_point(norm: str, shape: torch.Size, stream: torch.Generator, mutable: Tensor | None) -> Tensor:
    """A uniform point of the unit ball; 0 where nothing may change."""
    if norm == "linf":
        return torch.rand(shape, generator=stream) * 2 - 1
    direction = _direction(shape, stream, mutable)
    extent = direction.numel() if mutable is None else max(int(mutable.expand(shape).sum()), 1)
    radius = torch.rand(1, generator=stream) ** (1 / extent)
    return _over(direction, torch.linalg.vector_norm(direction)) * radius


def surface_point(norm: str, shape: torch.Size, stream: torch.Generator, mutable: Tensor | None) -> Tensor:
    """A random point on the surface of the unit ball; 0 where nothing may change."""
    if norm == "linf":
        direction = torch.rand(shape, generator=stream) * 2 - 1
        direction = direction if mutable is None else direction * mutable
        return _over(direction, direction.abs().max())
    direction = _direction(shape, stream, mutable)
    return _over(direction, torch.linalg.vector_norm(direction))


def _direction(shape: torch.Size, stream: torch.Generator, mutable: Tensor | None) -> Tensor:
    direction = torch.randn(shape, generator=stream)
    return direction if mutable is None else direction * mutable


def _over(direction: Tensor, length: Tensor) -> Tensor:
    return direction / length if length > 0 else direction


def _number(bound: object) -> float | Tensor:
    array = np.asarray(bound, np.float32)
    return float(bound) if array.ndim == 0 else torch.from_numpy(array.copy())  # type: ignore[arg-type]


def _is_one(unit: float | Tensor) -> bool:
    return not isinstance(unit, Tensor) and unit == 1.0
