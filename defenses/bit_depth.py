"""Bit-depth reduction: Xu et al. 2018 (arXiv:1704.01155); Guo et al. 2018 (arXiv:1711.00117)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.models.layers import straight_through
from robustbench_med.util.errors import UserError


@dataclass(frozen=True)
class BitDepth(Defense):
    """Every pixel is rounded to one of 2^bits equidistant values from 0 to 1.

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
        model.preprocess(lambda: Rounding(2**self.bits, self.straight_through))


class Rounding(nn.Module):
    """Rounds to multiples of 1 / (levels - 1)."""

    def __init__(self, levels: int, straight_through: bool) -> None:
        super().__init__()
        self.levels, self.straight_through = levels, straight_through

    def forward(self, x: Tensor) -> Tensor:
        value = (x * (self.levels - 1)).round() / (self.levels - 1)
        return straight_through(x, value) if self.straight_through else value
