"""Random changes to training images, the same geometry for all modalities of a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import ConfigDict
from torch import Tensor

from robustbench_med.api.data import DatasetInfo
from robustbench_med.api.space import Box, per_sample
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import STRICT


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images, the same geometry for all modalities of a sample.

    Attributes:
        mirror: flip along the axes the data set says keep every label true.
        shift: largest translation, as a share of the image size.
        rotate: largest rotation in degrees.
        zoom: largest relative change of scale.
        contrast: largest relative change of contrast, drawn per image.
        brightness: largest change of brightness, in units of the pixel range, drawn per image.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    mirror: bool = True
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0

    def __post_init__(self) -> None:
        limits = {"shift": 1, "rotate": 180, "zoom": 1, "contrast": 1, "brightness": 1}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"recipe: augmentation: {name} must be from 0 to {most}")


def augment(inputs: Mapping[str, Tensor], how: Augmentation, info: DatasetInfo) -> dict[str, Tensor]:
    """Draw one geometry per sample, one brightness and contrast per image or volume; stays in its range.

    A volume is moved within its planes. Signals and tables stay as they are.
    """
    first = next(iter(inputs.values()))
    theta = geometry(len(first), how, info).to(first.device)
    out = {}
    for name, values in inputs.items():
        modality = info.modality(name)
        if modality.kind not in ("image", "volume"):
            out[name] = values
            continue
        grid = F.affine_grid(_in_planes(theta, values), list(values.shape), align_corners=False)
        moved = F.grid_sample(values, grid, padding_mode="reflection", align_corners=False)
        gain, offset = 1 + _uniform(len(first), how.contrast), _uniform(len(first), how.brightness)
        box = Box.of(modality).to(values.device)
        mean = moved.mean(tuple(range(1, moved.dim())), keepdim=True)
        brighter = box.in_values(per_sample(offset.to(moved), moved))
        moved = (moved - mean) * per_sample(gain.to(moved), moved) + mean + brighter
        out[name] = box.clamp(moved, values)
    return out


def _in_planes(theta: Tensor, values: Tensor) -> Tensor:
    """Maps of the plane (B, 2, 3) as maps of space (B, 3, 4) where values are volumes."""
    if values.dim() == 4:
        return theta
    whole = theta.new_zeros(len(theta), 3, 4)
    whole[:, :2, :2], whole[:, :2, 3], whole[:, 2, 2] = theta[:, :, :2], theta[:, :, 2], 1.0
    return whole


def geometry(count: int, how: Augmentation, info: DatasetInfo) -> Tensor:
    """Random maps from output to input coordinates: flip, then rotation and zoom, then shift.

    Returns:
        (count, 2, 3), for ``affine_grid``.
    """
    angle, scale = _uniform(count, math.radians(how.rotate)), 1 + _uniform(count, how.zoom)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    for column, axis in enumerate(("horizontal", "vertical")):
        # A whole column changes sign: flipping one entry only would make a rotation a shear.
        chance = 0.5 if how.mirror and axis in info.mirror else 0.0
        theta[:, :, column] *= torch.where(torch.rand(count) < chance, -1.0, 1.0)[:, None]
    theta[:, 0, 2], theta[:, 1, 2] = _uniform(count, 2 * how.shift), _uniform(count, 2 * how.shift)
    return theta


def _uniform(count: int, limit: float) -> Tensor:
    return (torch.rand(count) * 2 - 1) * limit
