"""The mean over recorded draws of a random model: a deployment that is deterministic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_med.api import Defense, Forward, FusionModel, UserError, Wrapper, derive


@dataclass(frozen=True)
class LogitAveraging(Defense):
    """Logits are the mean over ``draws`` passes whose draws are recorded, the same for all images.

    Nothing is random any more, so that one gradient is exact and one scoring pass suffices: the
    attack sees what is deployed. One pass of the defended model is ``draws`` passes of the net,
    and counts as one in a record's cost. With one draw this is the random model frozen.

    Attributes:
        draws: how many.
        seed: of the recorded draws; the attacker knows them (white box).
    """

    draws: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise UserError(f"logit-averaging: draws is {self.draws}; it must be 1 or more")

    def apply(self, model: FusionModel) -> None:
        model.wrap(MeanLogits(self.draws, self.seed))


class MeanLogits(Wrapper):
    """The mean of ``draws`` passes, each on a recorded draw of its own."""

    freezes = True

    def __init__(self, draws: int, seed: int) -> None:
        super().__init__()
        self.draws, self.seed = draws, seed

    @property
    def is_random(self) -> bool:
        return False

    def forward(self, model: Forward, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        passes = [self._recorded(model, inputs, draw) for draw in range(self.draws)]
        return {task: torch.stack([logits[task] for logits in passes]).mean(0) for task in passes[0]}

    def _recorded(self, model: Forward, inputs: Mapping[str, Tensor], draw: int) -> dict[str, Tensor]:
        with self.noise.frozen(derive(self.seed, "logit-averaging", draw)):
            return model(inputs)
