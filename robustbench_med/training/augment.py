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


def augment(inputs: Mapping[str, Tensor], how: Augmentation, info: DatasetInfo) -> dict[str, Tensor]:
    """Draw one geometry per sample, one brightness and contrast per image; stays in [0, 1]."""
    first = next(iter(inputs.values()))
    theta = geometry(len(first), how, info).to(first.device)
    out = {}
    for name, images in inputs.items():
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        gain, offset = 1 + _uniform(len(first), how.contrast), _uniform(len(first), how.brightness)
        mean = moved.mean((1, 2, 3), keepdim=True)
        moved = (moved - mean) * gain.view(-1, 1, 1, 1).to(moved) + mean + offset.view(-1, 1, 1, 1).to(moved)
        out[name] = moved.clamp(0, 1)
    return out


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
