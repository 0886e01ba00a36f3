"""Fast gradient sign method (Goodfellow et al. 2015): one step of length epsilon."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_med.api.attack import Attack, Batch, Target
from robustbench_med.api.objective import loss_by_name


@dataclass(frozen=True)
class FGSM(Attack):
    """One step from the clean image to the surface of the ball.

    Attributes:
        loss: "cross-entropy" or "margin".
    """

    loss: str = "cross-entropy"

    def __post_init__(self) -> None:
        loss_by_name(self.loss)

    def perturb(self, target: Target, batch: Batch) -> dict[str, Tensor]:
        seen = target.evaluate(batch.inputs, batch.labels, loss_by_name(self.loss))
        steps = {name: budget.epsilon for name, budget in target.threat.budgets.items()}
        moved = target.threat.ascend(batch.inputs, seen.gradients, steps)
        return target.threat.project(moved, batch.inputs)
