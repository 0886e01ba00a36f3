"""JPEG compression of the images: Guo et al. 2018, arXiv:1711.00117."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from robustbench_med.api import Defense, FusionModel, Modality, UserError, straight_through


@dataclass(frozen=True)
class JPEG(Defense):
    """Every image is compressed to JPEG by Pillow and read again.

    Values are clipped to their range and rounded to 1/255 of it; other modalities stay as they are. Three
    channels are compressed as RGB (with Pillow's default chroma subsampling), any other number one by one, as
    grey images.

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
        def make(modality: Modality) -> nn.Module:
            if np.ndim(modality.low) or np.ndim(modality.high):
                raise UserError(f"jpeg: {modality.name} has a range for each element; JPEG knows one")
            return Compression(self.quality, self.straight_through, float(modality.low), float(modality.high))

        model.preprocess(make, ("image",), "jpeg")


class Compression(nn.Module):
    """(B, C, H, W) to the same shape, with values k/255 of the range."""

    def __init__(self, quality: int, straight_through: bool, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.quality, self.straight_through, self.low, self.span = quality, straight_through, low, high - low

    def forward(self, x: Tensor) -> Tensor:
        share = (x.detach() - self.low) / self.span
        pixels = (share.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
        decoded = np.stack([_compressed(image, self.quality) for image in pixels])
        value = self.low + torch.from_numpy(decoded).to(x) / 255 * self.span
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
