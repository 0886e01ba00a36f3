"""Fast gradient sign method (Goodfellow et al. 2015): one step of length epsilon."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_med.api import Attack, Batch, Best, Target, loss_by_name, margin


@dataclass(frozen=True)
class FGSM(Attack):
    """One step from the clean input to the surface of the ball.

    Attributes:
        loss: "cross-entropy", or "margin" or "dlr", which take a step for each question and keep the best.
    """

    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        loss_by_name(self.loss)

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        rounds = target.rounds(batch, loss_by_name(self.loss))
        moved = [self._stepped(target, aimed) for aimed in rounds]
        if len(moved) == 1:
            return moved[0]
        best = Best(batch, target, by="margin", until="every head")
        everyone = best.standing()
        for inputs in moved:
            best.update(everyone, inputs, target.evaluate(batch, inputs, margin, gradient=False))
        return best.inputs

    def _stepped(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        seen = target.evaluate(batch, batch.inputs, loss_by_name(self.loss))
        steps = {name: budget.epsilon for name, budget in target.threat.budgets.items()}
        moved = target.threat.ascend(batch.inputs, seen.gradients, steps)
        return target.threat.project(moved, batch.inputs)
