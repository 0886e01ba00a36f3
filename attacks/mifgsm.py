"""Momentum iterative FGSM (Dong et al. 2018, arXiv:1710.06081)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Best, Target
from robustbench_med.api.errors import UserError
from robustbench_med.api.fields import Fraction
from robustbench_med.api.objective import loss_by_name


@dataclass(frozen=True)
class MIFGSM(Attack):
    """Signed steps along a decaying sum of gradients, each first divided by its mean size.

    Attributes:
        steps: gradient steps, from the clean image.
        step_size: in units of the pixel range; epsilon / steps of each modality when not given.
        decay: of the sum.
        loss: "cross-entropy", "margin" or "dlr".
    """

    steps: int = 10
    step_size: Fraction | None = None
    decay: float = 1.0
    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.decay < math.inf:
            raise UserError("mi-fgsm: steps must be 1 or more, decay 0 or more")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise UserError(f"mi-fgsm: step-size is {self.step_size:g}; it must be positive")
        loss_by_name(self.loss)

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        loss, best = loss_by_name(self.loss), Best(batch, target, until="every head")
        index = best.standing()
        current = dict(batch.inputs)
        velocity = {name: torch.zeros_like(current[name]) for name in target.threat.budgets}
        for _ in range(self.steps):
            seen = target.evaluate(current, batch.labels, loss)
            best.update(index, current, seen)
            for name, budget in target.threat.budgets.items():
                gradient = seen.gradients[name]
                size = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
                velocity[name] = self.decay * velocity[name] + gradient / size
                step = budget.epsilon / self.steps if self.step_size is None else self.step_size
                moved = budget.ascend(current[name].detach(), velocity[name], step)
                current[name] = budget.project(moved, batch.inputs[name])
        best.update(index, current, target.evaluate(current, batch.labels, loss, gradient=False))
        return best.inputs
