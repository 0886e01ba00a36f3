"""Windows of samples of any rank, and the shapes that Square puts into them in L2.

Samples are (B, C, axis 1, …): images, volumes, signals. A table (B, features) counts as one axis.
Perturbations are in units of the modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robustbench_med.api import Budget, per_sample

TILES = 5  # the start in L2 is a grid of so many tiles along the shortest axis
TINY = 1e-12

# Windows by their side: samples (N,) and, for every axis, where their windows lie, broadcast to (N, side, …).
Windows = list[tuple[Tensor, tuple[Tensor, ...]]]


def spatial(x: Tensor) -> torch.Size:
    """The sizes of the axes on which windows lie."""
    return x.shape[1:] if x.dim() == 2 else x.shape[2:]


def sides(share: Tensor, x: Tensor, least: int) -> Tensor:
    """The side (B,) of a window of a share (B,) of the elements, equal along all axes."""
    sizes = spatial(x)
    content = share * sizes.numel()
    root = content.sqrt() if len(sizes) == 2 else content ** (1 / len(sizes))
    return root.round().clamp(min(least, *sizes), min(sizes))


def window(place: Tensor, side: Tensor, x: Tensor) -> Tensor:
    """Where windows lie: relative places (B, axes) and sides (B,) to a mask (B, 1, …), or (B, features)."""
    inside: Tensor | None = None
    sizes = spatial(x)
    for axis, offset in enumerate(_offsets(place, side, x)):
        here = (offset >= 0) & (offset < side[:, None])
        here = here.view(len(place), *[size if a == axis else 1 for a, size in enumerate(sizes)])
        inside = here if inside is None else inside & here
    assert inside is not None
    return inside if x.dim() == 2 else inside[:, None]


def windows(place: Tensor, side: Tensor, x: Tensor) -> Windows:
    """The same windows as positions, of each side that occurs."""
    corners, found = _corners(place, side, spatial(x)).long(), []
    for size in torch.unique(side).long().tolist():
        some = torch.nonzero(side == size).squeeze(1)
        along, axes = torch.arange(size, device=x.device), corners.shape[1]
        cells = (corners[some, axis, None] + along for axis in range(axes))
        shapes = ([size if a == axis else 1 for a in range(axes)] for axis in range(axes))
        found.append((some, tuple(c.view(-1, *shape) for c, shape in zip(cells, shapes, strict=True))))
    return found


def any_features(order: Tensor, share: Tensor, x: Tensor) -> Tensor:
    """A share (B,) of the features, one at least, those that come first in ``order`` (B, features)."""
    count = (share * x.shape[1]).round().clamp_min(1)
    return order.argsort(1).argsort(1) < count[:, None]


def _offsets(place: Tensor, side: Tensor, x: Tensor) -> list[Tensor]:
    """Along every axis the positions (B, size), counted from the corner of each window."""
    corners = _corners(place, side, spatial(x)).unbind(1)
    sizes = zip(corners, spatial(x), strict=True)
    return [torch.arange(size, device=x.device) - corner[:, None] for corner, size in sizes]


def _corners(place: Tensor, side: Tensor, sizes: Sequence[int]) -> Tensor:
    """Where windows begin, (B, axes)."""
    return torch.stack([(place[:, a] * (size - side + 1)).floor() for a, size in enumerate(sizes)], 1)


def bumps(place: Tensor, side: Tensor, turned: Tensor, x: Tensor) -> Tensor:
    """The shape of eq. 2 inside each window, (B, 1, …) of L2 length 1; (B, features) of a table."""
    axes = len(spatial(x))
    out = torch.zeros(len(x), *spatial(x), device=x.device)
    offsets = _offsets(place, side, x)
    along = (turned * axes).long().clamp_max(axes - 1)
    for size in torch.unique(side).tolist():
        rows = torch.nonzero(side == size).squeeze(1)
        tiles = torch.stack([pyramid([int(size)] * axes, axis, x.device) for axis in range(axes)])
        index: list[Tensor] = [along[rows].view(-1, *[1] * axes)]
        for axis, offset in enumerate(offsets):
            where = offset[rows].long().clamp(0, int(size) - 1)
            index.append(where.view(len(rows), *[-1 if a == axis else 1 for a in range(axes)]))
        out[rows] = tiles[tuple(index)]
    shaped = out if x.dim() == 2 else out[:, None]
    return shaped * window(place, side, x)


def pyramid(sizes: Sequence[int], axis: int, device: torch.device) -> Tensor:
    """Eq. 2: a positive and a negative hill, one behind the other along ``axis``, of L2 length 1."""
    half = sizes[axis] // 2
    halves = [[n if a != axis else part for a, n in enumerate(sizes)] for part in (half, sizes[axis] - half)]
    both = torch.cat([hill(halves[0], device), -hill(halves[1], device)], axis)
    length: Tensor = torch.linalg.vector_norm(both)
    return both / length


def hill(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Nested boxes around the middle, the n-th of height 1/n²; of length 1, or without elements."""
    if 0 in sizes:
        return torch.zeros(*sizes, device=device)
    levels = max(sizes) // 2 + 1
    steps = 1 / torch.arange(1, levels + 1, device=device).square()
    height_from = steps.flip(0).cumsum(0).flip(0)  # what is covered by all boxes from the n-th on
    ring = torch.zeros(*sizes, dtype=torch.long, device=device)
    for axis, n in enumerate(sizes):
        away = (torch.arange(n, device=device) - n // 2).abs()
        ring = torch.maximum(ring, away.view([-1 if a == axis else 1 for a in range(len(sizes))]))
    shape = height_from[ring.clamp_max(levels - 1)]
    length: Tensor = torch.linalg.vector_norm(shape)
    return shape / length


def _tile_side(x: Tensor) -> int:
    return max(min(spatial(x)) // TILES, 1)


def grid_of(x: Tensor) -> tuple[int, ...]:
    """How many tiles lie along each axis."""
    return tuple(size // _tile_side(x) for size in spatial(x))


def tiled(signs: Tensor, x: Tensor) -> Tensor:
    """A grid of tiles in the shape of eq. 2 with signs (B, C, *grid), in the middle of (B, C, …).

    Of a table, whose signs are (B, features), they themselves.
    """
    if x.dim() == 2:
        return signs
    side, sizes = _tile_side(x), spatial(x)
    tiles = torch.kron(signs, pyramid([side] * len(sizes), 0, x.device))
    starts = [(size - covered) // 2 for size, covered in zip(sizes, tiles.shape[2:], strict=True)]
    place = [slice(first, first + covered) for first, covered in zip(starts, tiles.shape[2:], strict=True)]
    out = torch.zeros_like(x)
    out[(slice(None), slice(None), *place)] = tiles
    return out


def norms(x: Tensor) -> Tensor:
    """L2 length of each channel, (B, C, 1, …); of a table (B, 1)."""
    dims = tuple(range(1 if x.dim() == 2 else 2, x.dim()))
    return x.square().sum(dims, keepdim=True).sqrt().clamp_min(TINY)


def energies(deltas: Mapping[str, Tensor], joint: bool) -> dict[str, Tensor]:
    """Squared length of each sample, (B,): of every modality, or of all of them together."""
    own = {name: delta.square().flatten(1).sum(1) for name, delta in deltas.items()}
    return dict.fromkeys(own, torch.stack(list(own.values())).sum(0)) if joint else own


def unused(budgets: Mapping[str, Budget], deltas: Mapping[str, Tensor], joint: bool) -> dict[str, Tensor]:
    """What of the squared radius no element uses yet, equal for all channels: (B, 1); of a table (B,)."""
    channels = {name: 1 if delta.dim() == 2 else delta.shape[1] for name, delta in deltas.items()}
    total = sum(channels.values())
    out = {}
    for name, energy in energies(deltas, joint).items():
        part = (budgets[name].epsilon ** 2 - energy).clamp_min(0) / (total if joint else channels[name])
        out[name] = part if deltas[name].dim() == 2 else part[:, None]
    return out


def filled(
    budgets: Mapping[str, Budget], deltas: Mapping[str, Tensor], clean: Mapping[str, Tensor], joint: bool
) -> dict[str, Tensor]:
    """Perturbations brought to the full radius, as inputs."""
    out = {}
    for name, energy in energies(deltas, joint).items():
        budget, delta = budgets[name], deltas[name]
        # A hair less than the radius, for the rounding of the sum.
        scale = budget.epsilon * (1 - 1e-6) / energy.sqrt().clamp_min(TINY)
        out[name] = budget.box.clamp(
            clean[name] + budget.box.in_values(delta * per_sample(scale, delta)), clean[name]
        )
    return out
