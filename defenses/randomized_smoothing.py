"""Randomized smoothing as a deployment: Cohen et al. 2019, arXiv:1902.02918."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from robustbench_med.api import Box, Defense, Forward, Fraction, FusionModel, Head, UserError, Wrapper


@dataclass(frozen=True)
class RandomizedSmoothing(Defense):
    """Logits are the log of the mean class probabilities over ``n`` noisy copies of all images.

    The noise is N(0, sigma²) on every element that may change, drawn per element at each forward
    pass and not clipped. Mean probabilities stand for Cohen's votes: counts of votes have a zero
    gradient, which would only mask it, while here an attack sees the gradient of the deployed answer
    itself (Salman et al. 2019, arXiv:1906.04584, eq. 6). ``robmed certify`` certifies the votes.
    One pass of the defended model is ``n`` passes of the net, and counts as one in a record's cost.

    Attributes:
        sigma: standard deviation in units of the modality, as epsilon is.
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
        boxes = {name: Box.of(modality) for name, modality in model.takes.items()}
        model.wrap(Smoothed(self.sigma, self.n, boxes, model.answers))


class Smoothed(Wrapper):
    """The log of the mean probabilities over ``n`` noisy copies."""

    shared_by = "element"

    def __init__(self, sigma: float, n: int, boxes: Mapping[str, Box], heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.sigma, self.n, self.boxes, self.heads = sigma, n, dict(boxes), dict(heads)

    def forward(self, model: Forward, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        copies = [model(self._noisy(inputs)) for _ in range(self.n)]
        return {
            head: self._mean(head, torch.stack([scores[head] for scores in copies])) for head in copies[0]
        }

    def _noisy(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = {}
        for name, x in inputs.items():
            noise = self.noise.normal(f"{self.site}.{name}", x.shape, self.sigma, x)
            box = self.boxes[name]
            out[name] = x + (noise if box.is_plain else box.to(x.device).in_values(noise))
        return out

    def _mean(self, head: str, scores: Tensor) -> Tensor:
        """n scores (B, columns) as the score of their mean probabilities, (B, columns)."""
        sigmoids = self.heads[head].kind == "multi-label" or scores.shape[2] == 1
        if not sigmoids:
            return scores.log_softmax(2).logsumexp(0) - math.log(self.n)
        yes, no = logsigmoid(scores).logsumexp(0), logsigmoid(-scores).logsumexp(0)
        return yes - no
