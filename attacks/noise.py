"""Controls: random points of the ball. An attack that is not stronger than these is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robustbench_med.api import Attack, Batch, Target, generator


@dataclass(frozen=True)
class UniformNoise(Attack):
    """One uniform point of the ball, drawn without asking the model."""

    knowledge: ClassVar[Literal["none"]] = "none"

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        return target.threat.random_start(batch.inputs, batch.ids, target.seed)


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """White noise, projected into the ball, drawn without asking the model.

    Its standard deviation is the radius in Linf, and in L2 the one whose expected length is.
    """

    knowledge: ClassVar[Literal["none"]] = "none"

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        noisy, threat = dict(batch.inputs), target.threat
        sizes = {
            name: budget.box.extent(batch.inputs[name].shape[1:]) for name, budget in threat.budgets.items()
        }
        for name, budget in threat.budgets.items():
            clean, shared = batch.inputs[name], sum(sizes.values()) if threat.joint else sizes[name]
            std = budget.epsilon if budget.norm == "linf" else budget.epsilon / max(shared, 1) ** 0.5
            streams = [generator(target.seed, "gaussian", sample, name) for sample in batch.ids]
            noise = torch.stack([torch.randn(clean.shape[1:], generator=stream) for stream in streams])
            noisy[name] = clean + budget.box.in_values(std * noise.to(clean))
        return threat.project(noisy, batch.inputs)
