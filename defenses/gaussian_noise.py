"""Gaussian noise on the inputs (as in Cohen et al. 2019, arXiv:1902.02918, but without the vote)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_med.api import Box, Defense, Fraction, FusionModel, Modality, RandomLayer, UserError


@dataclass(frozen=True)
class GaussianNoise(Defense):
    """N(0, sigma²) on every element of every modality, drawn per element at each forward pass.

    What comes out is not clipped to the range; what an attacker cannot change (of a table) gets no noise.

    Attributes:
        sigma: standard deviation in units of the modality, as epsilon is; 0 changes nothing.
    """

    sigma: Fraction = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise UserError(f"gaussian-noise: sigma is {self.sigma:g}; it must be 0 or more, such as 0.25")

    def apply(self, model: FusionModel) -> None:
        def make(modality: Modality) -> nn.Module:
            return AdditiveNoise(self.sigma, modality)

        model.preprocess(make, defense="gaussian-noise")


class AdditiveNoise(RandomLayer):
    """x + n with n ~ N(0, sigma²) per element, in units of the modality."""

    shared_by = "element"

    def __init__(self, sigma: float, modality: Modality) -> None:
        super().__init__()
        self.sigma, self.box = sigma, Box.of(modality)

    @property
    def is_random(self) -> bool:
        return self.sigma > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_random:
            return x
        noise = self.noise.normal(self.site, x.shape, self.sigma, x)
        return x + (noise if self.box.is_plain else self.box.to(x.device).in_values(noise))
