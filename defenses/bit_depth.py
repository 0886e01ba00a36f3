"""Bit-depth reduction: Xu et al. 2018 (arXiv:1704.01155); Guo et al. 2018 (arXiv:1711.00117)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_med.api import Defense, FusionModel, Modality, UserError, straight_through


@dataclass(frozen=True)
class BitDepth(Defense):
    """Every value is rounded to one of 2^bits equidistant ones over its range; tables stay as they are.

    Attributes:
        bits: 1 to 8; Guo et al. use 3.
        straight_through: give gradients as if nothing had been done (BPDA, Athalye et al. 2018);
            without it they are those of rounding, zero everywhere.
    """

    bits: int = 3
    straight_through: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise UserError(f"bit-depth: bits is {self.bits}; it must be 1 to 8")

    def apply(self, model: FusionModel) -> None:
        def make(modality: Modality) -> nn.Module:
            return Rounding(2**self.bits, self.straight_through, modality)

        model.preprocess(make, ("image", "volume", "signal"), "bit-depth")


class Rounding(nn.Module):
    """Rounds to multiples of 1 / (levels - 1) of the range."""

    low: Tensor
    span: Tensor

    def __init__(self, levels: int, straight_through: bool, modality: Modality) -> None:
        super().__init__()
        self.levels, self.straight_through = levels, straight_through
        self.plain = modality.is_plain
        low = torch.as_tensor(np.asarray(modality.low, np.float32))
        self.register_buffer("low", low, persistent=False)
        self.register_buffer(
            "span", torch.as_tensor(np.asarray(modality.high, np.float32)) - low, persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        share = x if self.plain else (x - self.low) / self.span
        value = (share * (self.levels - 1)).round() / (self.levels - 1)
        value = value if self.plain else self.low + value * self.span
        return straight_through(x, value) if self.straight_through else value
