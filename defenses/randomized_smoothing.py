"""Randomized smoothing as a deployment: Cohen et al. 2019, arXiv:1902.02918."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_med.api.defense import Defense
from robustbench_med.api.model import Forward, FusionModel, Wrapper
from robustbench_med.util.errors import UserError
from robustbench_med.util.fields import Fraction


@dataclass(frozen=True)
class RandomizedSmoothing(Defense):
    """Logits are the log of the mean class probabilities over ``n`` noisy copies of all images.

    The noise is N(0, sigma²) on every pixel of every modality, drawn per element at each forward
    pass and not clipped. Mean probabilities stand for Cohen's votes: counts of votes have a zero
    gradient, which would only mask it, while here an attack sees the gradient of the deployed answer
    itself (Salman et al. 2019, arXiv:1906.04584, eq. 6). ``robmed certify`` certifies the votes.
    One pass of the defended model is ``n`` passes of the net, and counts as one in a record's cost.

    Attributes:
        sigma: standard deviation in units of the pixel range.
        n: noisy copies behind each answer.
    """

    sigma: Fraction = 0.25
    n: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise UserError(f"randomized-smoothing: sigma is {self.sigma:g}; it must be positive")
        if self.n < 1:
            raise UserError(f"randomized-smoothing: n is {self.n}; it must be 1 or more")

    def apply(self, model: FusionModel) -> None:
        model.wrap(Smoothed(self.sigma, self.n))


class Smoothed(Wrapper):
    """The log of the mean softmax over ``n`` noisy copies."""

    shared_by = "element"

    def __init__(self, sigma: float, n: int) -> None:
        super().__init__()
        self.sigma, self.n = sigma, n

    def forward(self, model: Forward, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        copies = [model(self._noisy(inputs)) for _ in range(self.n)]
        return {task: self._mean([logits[task] for logits in copies]) for task in copies[0]}

    def _noisy(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: x + self.noise.normal(f"{self.site}.{name}", x.shape, self.sigma, x)
            for name, x in inputs.items()
        }

    def _mean(self, logits: list[Tensor]) -> Tensor:
        """n logits (B, K) to the log of their mean probabilities (B, K)."""
        return torch.stack(logits).log_softmax(2).logsumexp(0) - math.log(self.n)
