"""Random resizing and padding: Xie et al. 2018, arXiv:1711.01991."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from robustbench_med.api import Defense, Fraction, FusionModel, Modality, RandomLayer, UserError


@dataclass(frozen=True)
class ResizePad(Defense):
    """Each image is resized to a random size and padded, at a random place, to a fixed one.

    One draw of size and place serves the whole batch, as in the paper; each modality has its own, and its
    lowest value as padding.
    Resizing is by nearest neighbour, as in the authors' code. The height is uniform over the
    integers in [low·H, high·H), both rounded; the width keeps the proportions; the padded image is
    (high·H, high·W). Switched off, images keep their size.

    Attributes:
        low, high: factors on the image's size. The paper enlarges: 310/299 and 331/299. The default
            has its range, 310/331 to 1, but keeps the size: nets for small images can lose all
            their accuracy on images a few pixels larger.
    """

    low: Fraction = 310 / 331
    high: Fraction = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high <= 4:
            raise UserError(
                f"resize-pad: low is {self.low:g} and high {self.high:g}; they must be 0 < low < high <= 4"
            )

    def apply(self, model: FusionModel) -> None:
        def make(modality: Modality) -> RandomResizePad:
            if np.ndim(modality.low):
                raise UserError(
                    f"resize-pad: {modality.name} has a range for each pixel; its padding has one"
                )
            return RandomResizePad(self.low, self.high, float(modality.low))

        model.preprocess(make, ("image",), "resize-pad")


class RandomResizePad(RandomLayer):
    """(B, C, H, W) to (B, C, round(high·H), round(high·W))."""

    shared_by = "batch"

    def __init__(self, low: float, high: float, padding: float = 0.0) -> None:
        super().__init__()
        self.low, self.high, self.padding = low, high, padding

    def forward(self, x: Tensor) -> Tensor:
        if self.noise.off:
            return x
        height, width = (max(round(self.high * side), 1) for side in x.shape[2:])
        least = min(max(round(self.low * x.shape[2]), 1), height)
        # An image of few pixels has one size between low and high; it is not resized at random.
        rows = self.noise.integer(least, max(height, least + 1))
        columns = min(max(round(rows / x.shape[2] * x.shape[3]), 1), width)
        top = self.noise.integer(0, height - rows + 1)
        left = self.noise.integer(0, width - columns + 1)
        resized = F.interpolate(x, (rows, columns), mode="nearest")
        room = (left, width - columns - left, top, height - rows - top)
        return F.pad(resized, room, value=self.padding)
