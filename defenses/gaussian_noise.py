"""Gaussian noise on the images (as in Cohen et al. 2019, arXiv:1902.02918, but without the vote)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from robustbench_med.api.defense import Defense
from robustbench_med.api.model import FusionModel
from robustbench_med.api.randomness import RandomLayer
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import Fraction


@dataclass(frozen=True)
class GaussianNoise(Defense):
    """N(0, sigma²) on every pixel of every modality, drawn per element at each forward pass.

    The noisy images are not clipped to [0, 1].

    Attributes:
        sigma: standard deviation in units of the pixel range; 0 changes nothing.
    """

    sigma: Fraction = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.sigma < math.inf:
            raise UserError(f"gaussian-noise: sigma is {self.sigma:g}; it must be 0 or more, such as 0.25")

    def apply(self, model: FusionModel) -> None:
        model.preprocess(lambda: AdditiveNoise(self.sigma))


class AdditiveNoise(RandomLayer):
    """x + n with n ~ N(0, sigma²) per element."""

    shared_by = "element"

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    @property
    def is_random(self) -> bool:
        return self.sigma > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_random:
            return x
        return x + self.noise.normal(self.site, x.shape, self.sigma, x)
