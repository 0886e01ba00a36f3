"""Momentum iterative FGSM (Dong et al. 2018, arXiv:1710.06081)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_med.api import Attack, Batch, Best, Fraction, Target, UserError, loss_by_name, per_sample


@dataclass(frozen=True)
class MIFGSM(Attack):
    """Signed steps along a decaying sum of gradients, each first divided by its mean size.

    Attributes:
        steps: gradient steps, from the clean input.
        step_size: in units of the modality; epsilon / steps of each modality when not given.
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
        rounds = target.rounds(batch, loss_by_name(self.loss))
        best = Best(batch, target, by="margin" if len(rounds) > 1 else "loss", until="every head")
        for aimed in rounds:
            self._climb(target, aimed, best)
        return best.inputs

    def _climb(self, target: Target, batch: Batch, best: Best) -> None:
        loss, threat, current = loss_by_name(self.loss), target.threat, dict(batch.inputs)
        index = torch.arange(len(batch), device=batch.device)
        velocity = {name: torch.zeros_like(current[name]) for name in threat.budgets}
        steps = {
            name: budget.epsilon / self.steps if self.step_size is None else self.step_size
            for name, budget in threat.budgets.items()
        }
        for _ in range(self.steps):
            seen = target.evaluate(batch, current, loss)
            best.update(index, current, seen)
            sizes = _sizes(seen.gradients, threat.joint)
            with torch.no_grad():
                for name in threat.budgets:
                    velocity[name] = self.decay * velocity[name] + seen.gradients[name] / sizes[name]
                current = threat.project(threat.ascend(current, velocity, steps), batch.inputs)
        best.update(index, current, target.evaluate(batch, current, loss, gradient=False))


def _sizes(gradients: Mapping[str, Tensor], joint: bool) -> dict[str, Tensor]:
    """Mean absolute value of each modality's gradient, (B, 1, …); of all of them in a joint ball."""
    flat = {name: gradient.abs().flatten(1) for name, gradient in gradients.items()}
    together = torch.cat(list(flat.values()), 1)
    sizes = {name: (together if joint else part).mean(1) for name, part in flat.items()}
    return {name: per_sample(size.clamp_min(1e-12), gradients[name]) for name, size in sizes.items()}
