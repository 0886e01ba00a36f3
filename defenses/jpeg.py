"""JPEG compression of the images: Guo et al. 2018, arXiv:1711.00117."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.models.layers import straight_through
from robustbench_med.util.errors import UserError


@dataclass(frozen=True)
class JPEG(Defense):
    """Every image is compressed to JPEG by Pillow and read again.

    Values are clipped to [0, 1] and rounded to 1/255. Three channels are compressed as RGB (with
    Pillow's default chroma subsampling), any other number one by one, as grey images.

    Attributes:
        quality: 1 (coarse) to 95 (fine), in Pillow's meaning.
        straight_through: give gradients as if nothing had been done (BPDA, Athalye et al. 2018);
            without it there is no gradient, and an attack that needs one says so.
    """

    quality: int = 75
    straight_through: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise UserError(f"jpeg: quality is {self.quality}; it must be 1 to 95")

    def apply(self, model: FusionModel) -> None:
        model.preprocess(lambda: Compression(self.quality, self.straight_through))


class Compression(nn.Module):
    """(B, C, H, W) to the same shape, with values k/255."""

    def __init__(self, quality: int, straight_through: bool) -> None:
        super().__init__()
        self.quality, self.straight_through = quality, straight_through

    def forward(self, x: Tensor) -> Tensor:
        pixels = (x.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
        decoded = np.stack([_compressed(image, self.quality) for image in pixels])
        value = torch.from_numpy(decoded).to(x) / 255
        return straight_through(x, value) if self.straight_through else value


def _compressed(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(C, H, W) through JPEG and back."""
    if len(image) == 3:
        return _through_jpeg(np.ascontiguousarray(image.transpose(1, 2, 0)), quality).transpose(2, 0, 1)
    return np.stack([_through_jpeg(np.ascontiguousarray(channel), quality) for channel in image])


def _through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(H, W) grey or (H, W, 3) RGB through JPEG and back."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as decoded:
        return np.array(decoded)
