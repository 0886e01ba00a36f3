"""The embedded data set ``phantom-volume``: synthetic head volumes, MR-like and CT-like, with one lesion.

No patient was involved; see ``phantom``, whose contrasts and rules for equal bytes everywhere it shares. The
lesion's type is again a pair of independent fair bits, one a volume, so that neither volume alone can tell it
in more than half of the cases. Volumes are stored as uint16, as scanners store them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from robustbench_med.api.data import DatasetInfo, DataSource, Modality, Split
from robustbench_med.api.heads import SingleLabel
from robustbench_med.data.phantom import (
    CT_FLUID,
    CT_GREY,
    CT_SCALP,
    CT_SKULL,
    LESION_BRIGHT_IN_CT,
    LESION_BRIGHT_IN_MR,
    LESIONS,
    MR_FLUID,
    MR_GREY,
    MR_SCALP,
    MR_SKULL,
    NOISE,
    TEXTURE,
    Bools,
    Draws,
    Floats,
    inside,
    smoothstep,
)
from robustbench_med.util.errors import UserError

SEED: Final = 20261126
SIZES: Final[Mapping[str, int]] = {"train": 1500, "val": 200, "test": 400}
DEPTH, SIDE = 16, 32
WORDS: Final = 2 * DEPTH * SIDE * SIDE + 2048
"""Random 64-bit words one sample may use."""
BATCH: Final = 50

CONTRAST: Final = (0.07, 0.16)
RADIUS: Final = (0.20, 0.30)
"""Of the lesion, in half head widths: about 2.5 to 4 pixels in the plane, half of that across slices."""
FIELD: Final = 6
"""Nodes along each axis of a smooth field."""

BEST_SINGLE_MODALITY_ACCURACY: Final[Mapping[str, float]] = {"lesion": 0.5}
"""See ``phantom``: what one volume does not show is a fair coin."""


def _place(draws: Draws) -> tuple[Floats, Floats, Floats]:
    """Head coordinates (u, v, w) of every voxel of a shifted and scaled head, (B, DEPTH, SIDE, SIDE)."""
    pixel: Floats = (np.arange(SIDE, dtype=np.float64) - (SIDE - 1) / 2) / (SIDE / 2)
    slices: Floats = (np.arange(DEPTH, dtype=np.float64) - (DEPTH - 1) / 2) / (DEPTH / 2)

    def axis(values: Floats, shape: tuple[int, ...], low: float, high: float) -> Floats:
        shift, size = draws.uniform(-0.05, 0.05), draws.uniform(low, high)
        return (values.reshape(1, *shape) - shift[..., None]) / size[..., None]

    w = axis(slices, (DEPTH, 1, 1), 0.95, 1.05)
    v = axis(pixel, (1, SIDE, 1), 0.82, 0.93)
    u = axis(pixel, (1, 1, SIDE), 0.72, 0.84)
    whole = (len(u), DEPTH, SIDE, SIDE)
    return np.broadcast_to(u, whole), np.broadcast_to(v, whole), np.broadcast_to(w, whole)


def _texture(draws: Draws) -> Floats:
    """A smooth field in [-1, 1], (B, DEPTH, SIDE, SIDE), through random numbers on a lattice."""
    lattice = np.stack([draws.uniform(-1.0, 1.0)[:, 0, 0] for _ in range(FIELD**3)], 1)
    field = lattice.reshape(-1, FIELD, FIELD, FIELD)
    for axis, size in ((1, DEPTH), (2, SIDE), (3, SIDE)):
        place = np.arange(size) * (FIELD - 1) / (size - 1)
        cell = np.minimum(place.astype(np.int64), FIELD - 2)
        weight = smoothstep(place - cell).reshape([-1 if a == axis else 1 for a in range(4)])
        field = np.take(field, cell, axis) * (1 - weight) + np.take(field, cell + 1, axis) * weight
    return field


def render(
    split: str, indices: NDArray[np.int64], mr_bright: Bools, ct_bright: Bools
) -> dict[str, NDArray[Any]]:
    """Volumes (B, 1, DEPTH, SIDE, SIDE) as uint16 of the patients at ``indices``.

    The draws depend on split and index only, so that the same patient comes out with either bit.
    """
    draws = Draws(split, indices, SEED, WORDS)
    u, v, w = _place(draws)
    radius = np.sqrt(u * u + v * v + w * w)
    bone_limit = draws.uniform(0.91, 0.95)[..., None]
    brain_limit = bone_limit - draws.uniform(0.10, 0.18)[..., None]
    head, bone, brain = inside(radius, 1.0), inside(radius, bone_limit), inside(radius, brain_limit)
    across = np.abs(u) / draws.uniform(0.12, 0.2)[..., None]
    along = v / draws.uniform(0.28, 0.42)[..., None]
    deep = w / draws.uniform(0.25, 0.4)[..., None]
    fluid = brain * smoothstep(1.5 - np.sqrt(across * across + along * along + deep * deep))
    grey = brain - fluid
    lesion = _lesion(draws, u, v, w, brain)
    mr = MR_SCALP * (head - bone) + MR_SKULL * (bone - brain) + MR_FLUID * fluid + MR_GREY * grey
    ct = CT_SCALP * (head - bone) + CT_SKULL * (bone - brain) + CT_FLUID * fluid + CT_GREY * grey
    return {
        "mr": _volume(draws, mr, brain, lesion, mr_bright),
        "ct": _volume(draws, ct, brain, lesion, ct_bright),
    }


def _lesion(draws: Draws, u: Floats, v: Floats, w: Floats, brain: Floats) -> Floats:
    """The lesion's share of each voxel: an oval somewhere in the brain."""
    centre = [draws.uniform(-0.5, 0.5)[..., None] for _ in range(3)]
    size = draws.uniform(*RADIUS)[..., None]
    off = [(axis - middle) / size for axis, middle in zip((u, v, w), centre, strict=True)]
    return brain * smoothstep(1.5 - np.sqrt(off[0] * off[0] + off[1] * off[1] + off[2] * off[2]))


def _volume(draws: Draws, tissue: Floats, brain: Floats, lesion: Floats, bright: Bools) -> NDArray[np.uint16]:
    contrast = draws.uniform(*CONTRAST)
    signed = np.where(bright[:, None, None], contrast, -contrast)[..., None]
    volume = tissue + TEXTURE * _texture(draws) * brain + signed * lesion
    volume = volume + NOISE * draws.noise(DEPTH, SIDE, SIDE)
    return np.floor(np.clip(volume, 0.0, 1.0) * 65535 + 0.5).astype(np.uint16)[:, None]


INFO: Final = DatasetInfo(
    name="phantom-volume",
    title="Synthetic head volumes, MR-like and CT-like",
    pairing="paired",
    modalities=(
        Modality("mr", (1, DEPTH, SIDE, SIDE), "synthetic head volume with MR-like contrast", kind="volume"),
        Modality("ct", (1, DEPTH, SIDE, SIDE), "synthetic head volume with CT-like contrast", kind="volume"),
    ),
    heads=(SingleLabel("lesion", classes=LESIONS, modalities=("mr", "ct")),),
    licence="Apache-2.0",
    citation="generated by robustbench-med",
    synthetic=True,
    caveats=(
        "Synthetic volumes: a number on them says nothing about patients.",
        "Neither volume alone can classify the lesion type with an accuracy above 0.5.",
    ),
    mirror=("horizontal", "vertical"),
)


class PhantomVolume(DataSource):
    """Synthetic head volumes (MR-like, CT-like) of 16 slices with one lesion each; built in."""

    def load(self, split: str) -> Split:
        """Generate a split: the same bytes every time, on every platform.

        Raises:
            UserError: there is no such split.
        """
        if split not in SIZES:
            raise UserError(f"phantom-volume has no split {split!r}; choose one of {', '.join(SIZES)}")
        indices = np.arange(SIZES[split], dtype=np.int64)
        lesions = indices % 4
        batches = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
        rendered = [
            render(split, batch, LESION_BRIGHT_IN_MR[batch % 4], LESION_BRIGHT_IN_CT[batch % 4])
            for batch in batches
        ]
        ids = tuple(f"phantom-volume-{split}-{i:04d}" for i in indices)
        return Split(
            name=split,
            info=INFO,
            arrays={m.name: np.concatenate([each[m.name] for each in rendered]) for m in INFO.modalities},
            rows={m.name: indices for m in INFO.modalities},
            labels={"lesion": lesions},
            ids=ids,
            groups=ids,
        )
